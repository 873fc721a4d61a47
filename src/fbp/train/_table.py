"""Tables from CSV and NPZ files: named columns of numbers or of text."""

import csv
import dataclasses
import difflib
import io
import math
import zipfile
import zlib
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


def read_table(path: str | Path) -> Table:
    """Reads FILE.csv (comma, semicolon or tab; first line names) or FILE.npz (arrays by name).

    Raises:
      InputError: the file is missing, is not what its name says, has no rows, rows of different
        lengths, columns of one name, infinite numbers, or arrays of Python objects.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: expected a file named .csv or .npz")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = readers[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise InputError(f"{path}: expected rows of data, got none")
    for name, column in table.columns.items():
        if column.dtype == np.float64 and np.isinf(column).any():
            row = int(np.flatnonzero(np.isinf(column))[0]) + 1
            raise InputError(
                f"{path}: expected finite numbers, got infinity in {name!r}, row {row}"
            )
    return table


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise UnicodeError
    except UnicodeError:
        raise InputError(f"{path}: expected CSV text in UTF-8, got something else") from None
    first, _, _ = text.lstrip().partition("\n")
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}: expected CSV, got a file that breaks its rules: {error}"
        ) from None
    # Blank lines carry nothing, but the numbers of the others are those an editor shows.
    numbered = [(i, row) for i, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
    if not numbered:
        raise InputError(f"{path}: expected a line of column names and rows of data, got none")
    (_, names), *body = numbered
    names = [name.strip() for name in names]
    if all(number_of(name) is not None for name in names):
        raise InputError(f"{path}: expected the first line to name the columns, got only numbers")
    if len(set(names)) < len(names) or "" in names:
        twice = next((n for n in names if n == "" or names.count(n) > 1), "")
        raise InputError(
            f"{path}: expected one name a column, got {twice!r} more than once or empty"
        )
    for i, row in body:
        if len(row) != len(names):
            raise InputError(f"{path}: expected {len(names)} cells in row {i}, got {len(row)}")
    cells = zip(*(row for _, row in body), strict=True) if body else [()] * len(names)
    return Table(str(path), {n: _typed(list(c)) for n, c in zip(names, cells, strict=True)})


def _typed(cells: list[str]) -> np.ndarray:
    """A float64 column if every cell that is there is a number, else a column of text."""
    numbers = [number_of(cell) for cell in cells]
    if None in numbers:
        return np.array([cell.strip() for cell in cells], dtype=str)
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
        array = array.astype(str if is_text else np.float64)
        if array.ndim == 1:
            columns[name] = array
            continue
        named = False
        flat = array.reshape(len(array), -1)
        columns |= {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
    return Table(str(path), columns, named)


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
