"""Plain tables."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, its first row the head; columns of numbers are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [all(is_number(cell) for cell in column[1:]) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, numeric, strict=True)
        return "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in cells).rstrip()

    head, *body = map(line, rows)
    return "\n".join([head, "-" * (sum(widths) + 2 * len(widths) - 2), *body])


def is_number(cell: str) -> bool:
    """Whether a cell is a number, perhaps with a unit, or empty."""
    return not cell or cell[0].isdigit()
