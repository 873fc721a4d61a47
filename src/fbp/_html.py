"""Tables and lines as HTML without a script, as notebooks show a value."""

import html
from collections.abc import Collection, Sequence

from fbp._columns import is_number

_CELL = "padding:2px 12px 2px 0;font-variant-numeric:tabular-nums;white-space:pre"
# Reads on white and on black.
_LOUD = "color:#d4453b;font-weight:bold"


def shown(*parts: str) -> str:
    """Parts, each a table or lines, one below the other."""
    return f"<div>{''.join(parts)}</div>"


def lines(*text: str) -> str:
    """A paragraph for each line."""
    return "".join(f"<p style='margin:4px 0;white-space:pre-wrap'>{_text(t)}</p>" for t in text)


def table(rows: Sequence[Sequence[str]], loud: Collection[str] = ()) -> str:
    """A table, its first row the head; columns of numbers are set to the right.

    Args:
      rows: cells.
      loud: the cells to be seen first, by their text.
    """
    head, *body = rows
    right = [all(is_number(cell) for cell in column[1:]) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str], tag: str) -> str:
        cells = []
        for cell, numeric in zip(row, right, strict=True):
            side = "right" if numeric else "left"
            style = f"{_CELL};text-align:{side}" + (f";{_LOUD}" if cell in loud else "")
            cells.append(f"<{tag} style='{style}'>{_text(cell)}</{tag}>")
        return f"<tr>{''.join(cells)}</tr>"

    made = "".join(line(row, "td") for row in body)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{made}</tbody></table>"


def _text(text: str) -> str:
    return html.escape(text)
