"""From columns of cells to a table: what each holds, and what to say of it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from fbp.train.tables._dates import days
from fbp.train.tables._form import Form, Reading, read_as, read_column
from fbp.train.tables._table import InputError, Table

# A whole number that begins with 0, in cells joined by NUL.
_CODE = re.compile("(?:^|\0)(0\\d+)(?:\0|$)")
_BARE = "some numbers have a % and some none: all read alike"


def read_columns(
    source: str,
    written: Mapping[str, str],
    lines: np.ndarray,
    forms: Mapping[str, Form],
    said: Sequence[str] = (),
    delimiter: str = ",",
) -> Table:
    """A table of cells that are text.

    Args:
      source: the file, for messages.
      written: the cells of each column, joined by NUL.
      lines: the line of the file that each row ends on.
      forms: how to read the columns that are known; of the others it is decided.
      said: lines to print on the file.
      delimiter: between cells: a semicolon makes decimal commas likely.
    """
    read: dict[str, Reading] = {}
    for name, joined in written.items():
        cells = joined.split("\0")
        read[name] = read_as(cells, forms[name]) if name in forms else read_column(cells)
    decided = {name: r for name, r in read.items() if name not in forms}
    mark = _decimal_mark(decided, delimiter)
    if mark == ",":
        for name, reading in decided.items():
            if reading.form.kind == "number":
                read[name] = read_column(written[name].split("\0"), mark)
    table = Table(
        source,
        {name: reading.cells for name, reading in read.items()},
        forms={name: reading.form for name, reading in read.items()},
        lines=lines,
        written=written,
    )
    for name, reading in read.items():
        if name in forms and reading.odd:
            row = reading.odd[0]
            wrong = written[name].split("\0")[row]
            expected = "dates" if reading.form.kind == "date" else "numbers"
            raise InputError(
                f"{source}: expected {expected} in {name!r}, got {wrong!r} in {table.where(row)}"
            )
        if name in forms:
            _require_unit(source, name, reading)
            if reading.form.unit == "%" and reading.bare:
                said = (*said, f"WARNING: column {name!r}: {_BARE}")
    notes = {name: _notes(name, r, written[name], table) for name, r in read.items()}
    return dataclasses.replace(table, said={"": tuple(said), **notes})


def _require_unit(source: str, name: str, reading: Reading) -> None:
    """Refuses numbers of another unit than those trained on."""
    known = {reading.form.unit} - {""} or set(reading.units[:1])
    if others := set(reading.units) - known:
        raise InputError(
            f"{source}: expected numbers in {name!r} in {min(known)!r}, got some in {min(others)!r}"
        )


def _decimal_mark(read: Mapping[str, Reading], delimiter: str) -> str:
    """The mark before decimals that the clear columns of a table have, or that is likely."""
    numbers = [r for r in read.values() if r.form.kind == "number"]
    if any(r.form.decimal == "," and not r.ambiguous for r in numbers):
        return ","
    fractions = any(
        r.form.decimal == "." and not r.ambiguous and (r.cells > np.floor(r.cells)).any()
        for r in numbers
    )
    unclear = any(r.ambiguous for r in numbers)
    return "," if unclear and not fractions and delimiter == ";" else "."


def _notes(name: str, reading: Reading, written: str, table: Table) -> tuple[str, ...]:
    """What to say of how a column was read."""
    said = []
    if reading.form.kind == "date" and reading.example is not None:
        said.append(_date_said(name, reading, written))
    elif reading.example is not None:
        cell, number = reading.example
        sure = ", though it could be another number elsewhere" if reading.ambiguous else ""
        said.append(f"column {name!r}: {cell!r} read as {number:.10g}{sure}")
    if reading.missing:
        shown = ", ".join(map(repr, reading.missing[:4]))
        said.append(f"column {name!r}: {shown} read as missing")
    if reading.odd:
        cell = written.split("\0")[reading.odd[0]]
        kind = reading.form.kind
        what = f"is no {kind}" if len(reading.odd) == 1 else f"are no {kind}s"
        said.append(
            f"WARNING: column {name!r}: {len(reading.odd)} of {len(reading.cells):,} cells {what}, "
            f"as {cell!r} in {table.where(reading.odd[0])}: read as missing"
        )
    if reading.form.kind == "text" and reading.units:
        units = " and ".join(map(repr, reading.units))
        said.append(f"WARNING: column {name!r}: numbers with {units} are not one quantity: text")
    elif reading.units == ("%",) and reading.bare:
        said.append(f"WARNING: column {name!r}: {_BARE}")
    if reading.form.kind == "number" and (code := _CODE.search(written)):
        said.append(
            f"WARNING: column {name!r}: {code[1]!r} read as {float(code[1]):g}: if these are codes "
            "and no numbers, write a letter before them"
        )
    return tuple(said)


def _date_said(name: str, reading: Reading, written: str) -> str:
    assert reading.example is not None
    cell, day = reading.example
    date = str(np.datetime64("1970-01-01T00:00") + np.timedelta64(round(day * 1440), "m"))
    date = date.removesuffix("T00:00")
    said = f"column {name!r}: dates, as days since 1970: {cell!r} read as {date}"
    form = reading.form.date
    cells = sorted(c for c in set(written.split("\0")) if days(c, form) is not None)
    for one, other, first in (("%m/%d", "%d/%m", "day"), ("%d-%m", "%m-%d", "month")):
        turned = form.replace(one, other)
        if turned != form and all(days(c, turned) is not None for c in cells):
            return (
                f"WARNING: {said}; the {first} could come first: write dates as {date} to be sure"
            )
    if "%y" in form:
        there = reading.cells[np.isfinite(reading.cells)]
        years = there.astype("datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
        if years.min() < 2000 <= years.max():
            return (
                f"WARNING: {said}; years of two digits were read as {years.min()} to {years.max()}:"
                " write four to be sure"
            )
    return said
