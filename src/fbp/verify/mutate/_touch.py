"""Edits that record, in the run without a mutant, which test runs which function."""

import ast
from pathlib import Path
from typing import Any

from fbp.verify.mutate._operators import Place, line_starts


def name_of(file: str, function: str) -> str:
    """The name under which a function is recorded."""
    return f"{file}::{function}"


def touch_edits(places: list[Place]) -> dict[str, list[Any]]:
    """The insertions [start, end, text] for each file."""
    edits: dict[str, list[Any]] = {}
    for place in places:
        source = Path(place.file).read_bytes()
        starts = line_starts(source)
        note = f"__fbp_touch__({name_of(place.file, place.name)!r})"
        body = place.node.body
        if not isinstance(body, list):
            start = starts[body.lineno - 1] + body.col_offset
            end = starts[(body.end_lineno or 0) - 1] + (body.end_col_offset or 0)
            new = [[start, start, f"({note}, ("], [end, end, "))[1]"]]
        else:
            first = body[1] if _is_text(body[0]) and len(body) > 1 else body[0]
            decorators = getattr(first, "decorator_list", [])
            begin = starts[(decorators[0].lineno if decorators else first.lineno) - 1]
            start = source.index(b"@", begin) if decorators else begin + first.col_offset
            # On a line of its own if possible, because a compound statement cannot follow a `;`.
            alone = not source[begin:start].strip()
            indent = source[begin:start].decode() if alone else ""
            if decorators and not alone:
                continue  # an @ that does not begin its line
            new = [[start, start, f"{note}\n{indent}" if alone else f"{note}; "]]
        edits.setdefault(place.file, []).extend(new)
    return edits


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
