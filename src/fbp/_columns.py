"""Plain tables, and numbers for people."""

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


def size(n: int) -> str:
    """Bytes for people: 512 B, 32.0 KiB, 1.5 MiB."""
    if n < 1024:
        return f"{n} B"
    amount, unit = n / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"
