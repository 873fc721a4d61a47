"""Reads tables from CSV files."""

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fbp.train.tables._table import InputError, Table

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


def read_csv(path: Path, text_columns: frozenset[str]) -> Table:
    """Reads a CSV file; the columns in `text_columns` stay text even if they look like numbers."""
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
        # Each row with the number of its last line, so that errors name the line an editor shows.
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
        # In a single column a blank line is a missing cell, so every line gets a prediction.
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
    """Whether a line is empty: it has no text and no delimiter."""
    return not row or (len(row) == 1 and not row[0].strip())


def _as_cells(cells: Iterable[str]) -> np.ndarray:
    return np.array([cell.strip() for cell in cells], dtype=str)


def _typed(cells: list[str]) -> np.ndarray:
    """A float64 column if every cell is a number or missing, else a column of text."""
    numbers = [number_of(cell) for cell in cells]
    if None in numbers:
        return _as_cells(cells)
    return np.array(numbers, dtype=np.float64)


def number_of(cell: str) -> float | None:
    """The number in a cell: NaN if the cell is missing, None if it is text."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None
