"""The rule of a layer, as its docstring says it."""

import inspect
import re

_AFTER = re.compile(r"^(Args|Attributes|Raises|Returns|Shapes|Source|Yields):", re.MULTILINE)


def rule_of(owner: object) -> tuple[str, ...]:
    """The first sentence of a class's docstring, and its indented equations, line by line."""
    text = type(owner).__dict__.get("__doc__") or ""
    if text.startswith(f"{type(owner).__name__}("):  # what dataclass makes of no docstring
        return ()
    head = _AFTER.split(inspect.cleandoc(text))[0]
    paragraphs = head.strip().split("\n\n")
    first = " ".join(paragraphs[0].split())
    equations = [
        p for p in paragraphs[1:] if all(line.startswith("    ") for line in p.split("\n"))
    ]
    lines = [line[4:] for p in equations for line in p.rstrip().split("\n")]
    return (first, *lines) if first else ()
