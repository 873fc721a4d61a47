"""What a column of text cells holds: numbers, dates or text; and reading it as that."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from fbp.train.tables._cell import is_missing_text, plain_number, written_number
from fbp.train.tables._dates import as_days, format_of

# A column of numbers may have this share of cells that are neither numbers nor known to mean
# "missing", if it has more different numbers than a code would have values.
ODD_SHARE, LEAST_NUMBERS = 0.05, 10
# Thousands, where a comma begins decimals; or a number with three decimals.
_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")
_MEASURED = re.compile(r".*\d\s*(?P<unit>[^\W\d_]{1,12})")
# A month, as in 04.2024, which would be a number too.
_MONTH = re.compile(r"(0[1-9]|1[0-2])\.(19|20)\d\d")


@dataclasses.dataclass(frozen=True)
class Form:
    """How the cells of a column are read. All fields can be written as JSON.

    Attributes:
      kind: "number", "date" or "text".
      decimal: of a number: the mark before its decimals.
      date: of a date: its format.
      unit: of a number: what stands beside it: a sign of currency or percent, or letters, as kg.
    """

    kind: str = "number"
    decimal: str = "."
    date: str = ""
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A column as it was read.

    Attributes:
      cells: float64, with NaN where a cell is missing; or text, "" where it is.
      form: how the cells were read.
      odd: the rows with cells that are something else, read as missing.
      missing: what stands in the missing cells, in words.
      example: a cell that was not plain, beside what was read; or None.
      ambiguous: whether another decimal mark would have given other numbers.
      units: the signs of currency and percent that were found.
      bare: whether some numbers have no such sign.
    """

    cells: np.ndarray
    form: Form
    odd: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    example: tuple[str, float] | None = None
    ambiguous: bool = False
    units: tuple[str, ...] = ()
    bare: bool = False


def read_as(cells: Sequence[str], form: Form) -> Reading:
    """Reads cells in a known form."""
    if form.kind == "text":
        return _as_text(cells)
    if form.kind == "number":
        if form.unit.isalpha():
            cells = [cell.removesuffix(form.unit).rstrip() for cell in cells]
        return dataclasses.replace(_as_numbers(cells, form.decimal), form=form)
    dates = as_days(cells, form.date)
    numbers = [plain_number(cell) for cell in cells]
    gaps = np.array([n is not None and math.isnan(n) for n in numbers], bool)
    odd = np.flatnonzero(np.isnan(dates) & ~gaps)
    missing = {c for c, gap in zip(cells, gaps, strict=True) if gap and c}
    first = next((i for i, d in enumerate(dates) if not math.isnan(d)), None)
    example = None if first is None else (cells[first], float(dates[first]))
    return Reading(dates, form, tuple(odd.tolist()), tuple(sorted(missing)), example)


def read_column(cells: Sequence[str], decimal: str | None = None) -> Reading:
    """Decides what a column holds, and reads it.

    Args:
      cells: as they stand in the file, without spaces around.
      decimal: the mark to prefer where both give numbers.
    """
    if _are_months(cells):
        return read_as(cells, Form("date", date="%m.%Y"))
    dot = _as_numbers(cells, ".")
    if dot.example is None and not dot.odd:
        return _plain(cells, dot, decimal)
    comma = _as_numbers(cells, ",")
    ambiguous = len(dot.odd) == len(comma.odd) and not np.array_equal(
        dot.cells, comma.cells, equal_nan=True
    )
    in_turn = (comma, dot) if decimal == "," else (dot, comma)
    best = min(in_turn, key=lambda reading: len(reading.odd))
    there = np.isfinite(best.cells)
    several = len(np.unique(best.cells[there])) > LEAST_NUMBERS
    odd = len(best.odd)
    if odd and not (several and odd <= ODD_SHARE * (odd + int(there.sum()))):
        return _as_date_or_text(cells)
    if len(best.units) > 1:
        # Dollars and euros, or amounts and shares, are not one quantity.
        return dataclasses.replace(_as_text(cells), units=best.units)
    form = dataclasses.replace(best.form, unit=next(iter(best.units), ""))
    return dataclasses.replace(best, form=form, ambiguous=ambiguous)


def _plain(cells: Sequence[str], dot: Reading, decimal: str | None) -> Reading:
    """Numbers as Python writes them, which may be other ones where a comma begins decimals."""
    pointed = [cell for cell in cells if "." in cell]
    if not pointed:  # the same numbers; their decimals, in another file, are as in this one
        return dataclasses.replace(dot, form=Form("number", decimal or "."))
    if not all(map(_GROUPS.fullmatch, pointed)):
        return dot
    if decimal == ",":
        return dataclasses.replace(_as_numbers(cells, ","), ambiguous=True)
    # Three decimals in each cell are likely decimals; 999 beside 1.234 is likely less than it.
    return dataclasses.replace(dot, ambiguous=len(pointed) < sum(map(bool, cells)))


def _are_months(cells: Sequence[str]) -> bool:
    there = [cell for cell in cells if not is_missing_text(cell)]
    return bool(there) and all(map(_MONTH.fullmatch, there))


def _as_date_or_text(cells: Sequence[str]) -> Reading:
    there = [cell for cell in cells if plain_number(cell) is None]
    if (measured := _measured(cells, there)) is not None:
        return measured
    # Text has letters all over; a date has two digits in a row at least.
    if there and all(any(c.isdigit() for c in cell) for cell in there[:20]):
        form = format_of(there)
        if form is not None:
            dates = read_as(cells, Form("date", date=form))
            if len(dates.odd) <= ODD_SHARE * (len(dates.odd) + len(there)):
                return dates
    return _as_text(cells)


def _measured(cells: Sequence[str], there: Sequence[str]) -> Reading | None:
    """Numbers of which each has the same letters behind it, as in `17 kg`."""
    found = None if not there else _MEASURED.fullmatch(there[0])
    if found is None or not all(cell.endswith(found["unit"]) for cell in there):
        return None
    unit = found["unit"]
    bare = [cell.removesuffix(unit).rstrip() for cell in cells]
    # Of another one, as "kg" is of "g", digits are not all that is left.
    told = zip(cells, bare, strict=True)
    if not all(b[-1:].isdigit() for cell, b in told if not is_missing_text(cell)):
        return None
    reading = read_column(bare)
    if reading.form.kind != "number" or reading.odd or reading.units:
        return None
    example = there[0], float(reading.cells[list(cells).index(there[0])])
    form = dataclasses.replace(reading.form, unit=unit)
    return dataclasses.replace(reading, form=form, example=example)


def _as_text(cells: Sequence[str]) -> Reading:
    missing = {cell for cell in set(cells) if is_missing_text(cell)}
    # As objects: in an array of str, every cell takes the memory of the longest.
    text = np.array(["" if cell in missing else cell for cell in cells], dtype=object)
    return Reading(text, Form("text"), missing=tuple(sorted(missing - {""})))


def _as_numbers(cells: Sequence[str], mark: str) -> Reading:
    if mark == "." and (plain := _all_plain(cells)) is not None:
        return Reading(plain, Form("number", mark), bare=True)
    numbers, odd, missing, units = np.full(len(cells), math.nan), [], set(), set()
    example, bare = None, False
    # A column has fewer different cells than cells.
    read: dict[str, float | None] = {}
    for i, cell in enumerate(cells):
        if cell not in read:
            number = plain_number(cell)
            if number is not None and (mark == "." or "." not in cell or math.isnan(number)):
                read[cell] = number
                bare |= not math.isnan(number)
                if math.isnan(number) and cell:
                    missing.add(cell)
            elif (found := written_number(cell, mark)) is not None:
                read[cell], unit = found
                example = example or (cell, found[0])
                units |= {unit} - {""}
                bare |= not unit
            else:
                read[cell] = None
        number = read[cell]
        if number is None:
            odd.append(i)
        else:
            numbers[i] = number
    return Reading(
        numbers,
        Form("number", mark),
        tuple(odd),
        tuple(sorted(missing)),
        example,
        units=tuple(sorted(units)),
        bare=bare,
    )


def _all_plain(cells: Sequence[str]) -> np.ndarray | None:
    """The numbers of a column where every cell is a plain one or empty; None if one is not."""
    try:
        numbers = np.array([float(cell or "nan") for cell in cells], np.float64)
    except ValueError:
        return None
    if any("_" in cell for cell in cells):
        return None
    # A cell that says NaN is not plain: it is to be said that it was read as missing.
    named = any(cells[i] for i in np.flatnonzero(np.isnan(numbers)).tolist())
    return None if named else numbers
