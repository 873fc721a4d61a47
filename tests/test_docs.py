"""The pages of docs/: their code runs, and every public name is in the reference."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import fbp
import fbp.models
import fbp.text
import fbp.verify.domains

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
WITH_CODE = [page.stem for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
# Of the room of training, what scripts call.
OF_TRAINING = ["train.fit", "train.Fit", "train.batches", "train.load"]
OF_TRAINING += ["train.load_language_model"]
MODULES = {
    "mesh": fbp.mesh,
    "models": fbp.models,
    "text": fbp.text,
    "verify.domains": fbp.verify.domains,
}


def blocks(page, language):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def of_fbp(value):
    return (getattr(value, "__module__", None) or "").startswith("fbp.")


def extension(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs_and_prints_what_the_page_shows(page, capsys):
    # The blocks of a page are one program.
    exec(compile("\n".join(blocks(page, "python")), f"{page}.md", "exec"), {"__name__": page})
    printed = capsys.readouterr().out
    shown = [line for block in blocks(page, "text") for line in block.splitlines()]
    # Verdicts and hints: the numbers of a table depend on how a machine rounds.
    for line in shown:
        if re.match(r"[A-Z]+  |hint|match", line):
            words = re.sub(r"[0-9.]+e[+-][0-9]+", "*", line.removesuffix(" ..."))
            assert words in re.sub(r"[0-9.]+e[+-][0-9]+", "*", printed)


def test_every_public_name_is_in_the_reference_once():
    listed = [
        name
        for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
        for name in re.findall(r"^\.\. auto\w+:: fbp\.(\S+)$", page.read_text(), re.MULTILINE)
    ]
    public = [*OF_TRAINING, *(name for name in fbp.__all__ if name not in MODULES)]
    for prefix, module in MODULES.items():
        public += [
            f"{prefix}.{name}"
            for name in dir(module)
            # Leaves out the modules, and what they import from elsewhere.
            if name[0] != "_" and of_fbp(getattr(module, name))
        ]
    missing = sorted(set(public) - set(listed))
    assert not missing, f"expected in a page of docs/reference: {', '.join(missing)}"
    assert sorted(listed) == sorted(public)


def test_pages_are_in_the_contents():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.stem == "index" or f"\n{page.stem}\n" in contents


def test_every_experiment_says_how_to_run_it_and_what_to_expect(monkeypatch):
    monkeypatch.setitem(sys.modules, "docstrings", extension("docstrings"))
    made = extension("experiments")
    paths = sorted((ROOT / "experiments").glob("*.py"))
    page = made.page(ROOT / "experiments")
    for path in paths:
        text = made.docstring(path)
        assert f"python experiments/{path.name}" in text
        assert re.search(r"\b(seconds?|minutes?)\b", text), path.name
        assert "Expected" in text, path.name
        assert f"    python experiments/{path.name}" in page
    assert page.count("\n---") == len(paths)


def test_a_docstring_means_what_it_says():
    lines = """One line with `code_`s and a * b_.

    y = x^2
    dx = 2 x dy

Text.

* An item of `a
  list`.
  It goes on.

Args:
  *layers, **named: the `layers`,
    and more_.
  x: f. A function_.

Last:

    y""".splitlines()
    assert extension("docstrings").to_rst(lines) == [
        r"One line with ``code_``\ s and a \* b\_.",
        "",
        "::",
        "",
        "    y = x^2",
        "    dx = 2 x dy",
        "",
        "Text.",
        "",
        "* An item of ``a list``.",
        "  It goes on.",
        "",
        "Args:",
        r"  *layers, \*\*named: the ``layers``,",
        r"    and more\_.",
        r"  x: f\. A function\_.",
        "",
        r"Last:",
        "",
        "::",
        "",
        "    y",
    ]
