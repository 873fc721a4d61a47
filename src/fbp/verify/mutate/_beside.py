"""Edits that put a mutant beside the function that it is a mutant of, to compare the two."""

from pathlib import Path
from typing import Any

from fbp.verify.mutate._operators import Mutant, Place, line_starts

_ORIGINAL = "_fbp_original"


def edits_beside(mutant: Mutant, places: list[Place]) -> list[list[Any]] | None:
    """The edits [start, end, text] of its file; None if they cannot be made."""
    source = Path(mutant.file).read_bytes()
    starts = line_starts(source)
    change = [mutant.start, mutant.end, mutant.text]
    for place in places:
        node = place.node
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        if place.file != mutant.file or not start <= mutant.start < mutant.end <= end:
            continue
        own = source[start:end].decode()
        if not hasattr(node, "name"):
            return [[start, start, f"(__fbp_same__({own})("], change, [end, end, "))"]]
        head, decorators = f"def {node.name}", getattr(node, "decorator_list", [])
        line = starts[node.lineno - 1]
        indent = source[line:start].decode()
        if indent.strip() or not own.startswith(head):
            return None
        copy = f"{own.replace(head, f'def {_ORIGINAL}', 1)}\n{indent}"
        note = f"@__fbp_same__({_ORIGINAL})\n{indent}"
        if not decorators:
            return [[start, start, copy + note], change]
        first = source.rindex(b"@", 0, starts[decorators[0].lineno - 1] + decorators[0].col_offset)
        return [[first, first, copy], [start, start, note], change]
    return None
