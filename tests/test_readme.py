"""The README's code runs, and what it says of the code is so."""

import inspect
import re
from pathlib import Path

import fbp

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_code_blocks_run():
    # The first block quotes the library; the others are one program.
    exec(compile("\n".join(BLOCKS[1:]), "README.md", "exec"), {"__name__": "readme"})


def test_the_heart_is_the_code():
    def statements(text):
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]

    body = inspect.getsource(fbp.Objective.value_and_grad).split('"""')[-1]
    assert statements(BLOCKS[0])[1:] == statements(body)


def test_named_files_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:experiments|src|scripts|tests|\./scripts)/[\w./]+)`", README):
        assert (root / name).exists(), name
