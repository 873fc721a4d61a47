"""Dates as numbers: days since the first of January 1970."""

import datetime
import math
from collections.abc import Sequence

import numpy as np

# As programs write them. The day comes first only if some day does not fit where the month is;
# between dashes the month does, if some day is there.
FORMATS = (
    *("iso", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y"),
    *("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%Y-%m", "%b %Y", "%B %Y", "%b-%Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def days(cell: str, form: str) -> float | None:
    """The date in a cell of this format as days since 1970, or None if it has another one."""
    try:
        if form == "iso":
            # Python also reads 20240131, which is a number, and 2024-W05.
            if cell[4:5] != "-" or cell[7:8] != "-":
                return None
            date = datetime.datetime.fromisoformat(cell)
        else:
            date = datetime.datetime.strptime(cell, form)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return (date - _EPOCH).total_seconds() / 86400


def as_days(cells: Sequence[str], form: str) -> np.ndarray:
    """The dates of a column; NaN where a cell has another format."""
    found = {cell: days(cell, form) for cell in set(cells)}
    return np.array([math.nan if (d := found[c]) is None else d for c in cells], np.float64)


def format_of(cells: Sequence[str]) -> str | None:
    """The format that reads all these cells, or None."""
    different = sorted(set(cells))
    # Few cells rule out most formats at little cost.
    in_turn = [*different[:: max(1, len(different) // 50)], *different]
    for form in FORMATS:
        for time in ("",) if form == "iso" else _TIMES:
            if all(days(cell, form + time) is not None for cell in in_turn):
                return form + time
    return None
