"""Tables from CSV and NPZ files: named columns of numbers or of text."""

import csv
import dataclasses
import difflib
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


class InputError(ValueError):
    """What the user gave cannot be used; the message is the one line to show."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of one length. A column is float64, with NaN where a cell is missing, or text.

    Attributes:
      source: what to call it in messages: a file, or a built-in data set.
      columns: the columns by name, in the order of the file.
      named: whether the file itself named its columns (an NPZ array numbers them).
    """

    source: str
    columns: dict[str, np.ndarray]
    named: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> np.ndarray:
        """The column of that name; an InputError names those there are."""
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {_some(list(self.columns))}"
            raise InputError(f"{self.source}: expected a column {name!r}; {hint}")
        return self.columns[name]


def read_table(path: str | Path, text: frozenset[str] = frozenset()) -> Table:
    """Reads FILE.csv (comma, semicolon or tab; first line names) or FILE.npz (arrays by name).

    Args:
      path: the file.
      text: columns that are text even if all their cells look like numbers, as codes do.

    Raises:
      InputError: the file is missing, is not what its name says, has no rows, rows of different
        lengths, columns of one name, infinite numbers, or arrays of Python objects.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise InputError(f"{path}: expected a file named .csv or .npz")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = _read_csv(path, text) if suffix == ".csv" else _read_npz(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise InputError(f"{path}: expected rows of data, got none")
    for name, column in table.columns.items():
        if column.dtype == np.float64 and np.isinf(column).any():
            row = int(np.flatnonzero(np.isinf(column))[0]) + 1
            raise InputError(
                f"{path}: expected finite numbers in {name!r}, got infinity, row {row}"
            )
    return table


def _read_csv(path: Path, text_columns: frozenset[str]) -> Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise UnicodeError
    except UnicodeError:
        raise InputError(f"{path}: expected CSV text in UTF-8, got something else") from None
    first, _, _ = text.lstrip().partition("\n")
    unquoted = re.sub('"[^"]*"', "", first)
    delimiter = max(",;\t", key=unquoted.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        # With the line each row ends in, which is what an editor shows.
        rows = [(row, reader.line_num) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}: expected CSV, got a file that breaks its rules: {error}"
        ) from None
    while rows and _is_blank(rows[-1][0]):
        rows.pop()
    while rows and _is_blank(rows[0][0]):
        rows.pop(0)
    if not rows:
        raise InputError(f"{path}: expected a line of column names and rows of data, got none")
    (names, _), *body = rows
    names = [name.strip() for name in names]
    if all(number_of(name) is not None for name in names):
        raise InputError(f"{path}: expected the first line to name the columns, got only numbers")
    if len(set(names)) < len(names) or "" in names:
        twice = next(n for n in names if n == "" or names.count(n) > 1)
        raise InputError(
            f"{path}: expected one name a column, got {twice!r} more than once or empty"
        )
    if len(names) == 1:
        # A blank line is a missing cell: every row has its prediction.
        body = [(row or [""], line) for row, line in body]
    else:
        body = [(row, line) for row, line in body if not _is_blank(row)]
    for row, line in body:
        if len(row) != len(names):
            raise InputError(f"{path}: expected {len(names)} cells in line {line}, got {len(row)}")
    cells = zip(*(row for row, _ in body), strict=True) if body else [()] * len(names)
    columns = {
        name: _as_cells(column) if name in text_columns else _typed(list(column))
        for name, column in zip(names, cells, strict=True)
    }
    return Table(str(path), columns)


def _is_blank(row: list[str]) -> bool:
    """Whether a line has nothing in it, not even a delimiter."""
    return not row or (len(row) == 1 and not row[0].strip())


def _as_cells(cells: Iterable[str]) -> np.ndarray:
    return np.array([cell.strip() for cell in cells], dtype=str)


def _typed(cells: list[str]) -> np.ndarray:
    """A float64 column if every cell that is there is a number, else a column of text."""
    numbers = [number_of(cell) for cell in cells]
    if None in numbers:
        return _as_cells(cells)
    return np.array(numbers, dtype=np.float64)


def number_of(cell: str) -> float | None:
    """The number in a cell, NaN where it is missing, None where it is text."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _read_npz(path: Path) -> Table:
    columns: dict[str, np.ndarray] = {}
    named = True
    not_npz = InputError(f"{path}: expected an NPZ archive, got something else")
    if not zipfile.is_zipfile(path):
        raise not_npz
    try:
        # Arrays of Python objects would have to be unpickled, which runs code: never.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        if "pickle" in str(error):
            raise InputError(f"{path}: expected arrays without Python objects") from None
        raise not_npz from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise not_npz
    if not arrays:
        raise InputError(f"{path}: expected arrays, got an empty archive")
    lengths = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise InputError(f"{path}: expected arrays with one first axis, got sizes {lengths}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubUS":
            raise InputError(f"{path}: expected numbers or text in {name!r}, got {array.dtype}")
        is_text = array.dtype.kind in "US"
        try:
            array = array.astype(str if is_text else np.float64)
        except UnicodeError:
            raise InputError(f"{path}: expected text in {name!r}, got other bytes") from None
        if array.ndim == 1:
            found = {name: array}
        else:
            named = False
            flat = array.reshape(len(array), math.prod(array.shape[1:]))
            found = {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
        if twice := set(found) & set(columns):
            raise InputError(f"{path}: expected one array a column, got two for {min(twice)!r}")
        columns |= found
    return Table(str(path), columns, named)


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
