"""The page of experiments, made of their docstrings."""

import ast
import re
from pathlib import Path

from docstrings import to_rst

_COMMAND = re.compile(r"python experiments/.*\n(?: +\S.*\n)*")


def docstring(path: Path) -> str:
    """Returns the docstring of a script, without running it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def page(folder: Path) -> str:
    """Returns a section for each script of a folder, in reStructuredText."""
    sections = []
    for path in sorted(folder.glob("*.py")):
        text = docstring(path)
        # A first line that is the command becomes a block, as it is in the others.
        if command := _COMMAND.match(text):
            block = "\n".join(f"    {line}" for line in command[0].splitlines())
            text = f"\n{block}\n{text[command.end() :]}"
        title = path.stem.replace("_", " ").capitalize()
        sections.append("\n".join([title, "-" * len(title), "", *to_rst(text.splitlines()), ""]))
    return "\n".join(sections)
