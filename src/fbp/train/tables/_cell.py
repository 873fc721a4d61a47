"""What one cell says: that it is missing, or a number, however it is written; and writing one."""

import math
import re
from collections.abc import Sequence

# What programs write where there is nothing, in lower case. A text may be one of the second kind:
# "none" can be a label, and "-" the opposite of "+".
_MISSING_TEXT = {"", "na", "n/a", "#n/a", "n.a.", "<na>", "nan", "null", "#null!", "\\n", "?"}
_MISSING_NUMBER = _MISSING_TEXT | {
    *("none", "nil", "missing", "-", "--", "---", "\N{EN DASH}", "\N{EM DASH}", ".", "..", "*"),
    *("nat", "n.d.", "#value!", "#ref!", "#num!", "#name?", "#div/0!"),
}
_SIGNS = "$€£¥₹%"
_SPACES = " \u00a0\u2009\u202f"
# Thousands in groups of three: between them is the other mark, a space or an apostrophe.
_DIGITS = {
    mark: rf"(?:[1-9]\d{{0,2}}(?:{other}\d{{3}})+|[1-9]\d{{0,2}}(?:['\u2019{_SPACES}]\d{{3}})+|\d+)"
    rf"(?:{point}\d*)?|{point}\d+"
    for mark, point, other in ((".", r"\.", ","), (",", ",", r"\."))
}
_NUMBER = {
    mark: re.compile(
        rf"(?P<open>\()?(?P<minus>[-+\u2212]?)[{_SPACES}]?(?P<before>[{_SIGNS}]?)[{_SPACES}]?"
        rf"(?P<inner>[-+\u2212]?)(?P<digits>{digits})(?P<power>[eE][-+]?\d+)?"
        rf"[{_SPACES}]?(?P<after>[{_SIGNS}]?)(?P<close>\))?"
    )
    for mark, digits in _DIGITS.items()
}
_GROUPING = str.maketrans("", "", "'\u2019" + _SPACES)


def is_missing_text(cell: str) -> bool:
    """Whether a cell of a column of text has nothing to say."""
    return cell.strip().lower() in _MISSING_TEXT


def plain_number(cell: str) -> float | None:
    """The number in a cell as Python writes one: NaN if the cell is missing, None if it is text."""
    cell = cell.strip()
    if cell.lower() in _MISSING_NUMBER:
        return math.nan
    try:
        # Python also reads 1_2 as 12.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def varied(value: float, spread: float, digits: int) -> str:
    """A number to so many significant digits of what it varies by."""
    before = 0.0
    if 0 < spread < abs(value):
        before = math.log10(abs(value)) - math.log10(spread)
    return f"{value:.{min(digits + round(before), 17)}g}"


def first_text(cells: Sequence[str]) -> int | None:
    """The place of the first cell that is no number and not missing."""
    return next((i for i, cell in enumerate(cells) if plain_number(cell) is None), None)


def written_number(cell: str, mark: str) -> tuple[float, str] | None:
    """The number in a cell and its sign of currency or percent, or None if it is text.

    Args:
      cell: such as "1,234.5", "$5", "12 %", "(3.1)", which is negative as in accounts, "1 234".
      mark: "." or ",", which begins the decimals; the other one may separate thousands.
    """
    found = _NUMBER[mark].fullmatch(cell.strip())
    if found is None or (found["open"] is None) != (found["close"] is None):
        return None
    signs = [found[name] for name in ("minus", "inner") if found[name]]
    if len(signs) + (found["open"] is not None) > 1 or (found["before"] and found["after"]):
        return None
    digits = found["digits"].replace("." if mark == "," else ",", "").translate(_GROUPING)
    number = float(digits.replace(",", ".") + (found["power"] or ""))
    negative = found["open"] is not None or (signs and signs[0] != "+")
    return -number if negative else number, found["before"] or found["after"]
