"""Reads a table from a file, in the format that its suffix names."""

from pathlib import Path

import numpy as np

from fbp.train.tables._csv import read_csv
from fbp.train.tables._npz import read_npz
from fbp.train.tables._table import InputError, Table


def read_table(path: str | Path, text: frozenset[str] = frozenset()) -> Table:
    """Reads FILE.csv (comma, semicolon or tab; names in the first line) or FILE.npz (named arrays).

    Args:
      path: the file.
      text: columns to read as text even if all their cells look like numbers, such as codes.

    Raises:
      InputError: the file is missing or not in the format of its suffix, or it has no rows, rows
        of different lengths, duplicate column names, infinite numbers, or arrays of Python objects.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise InputError(f"{path}: expected a file named .csv or .npz")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = read_csv(path, text) if suffix == ".csv" else read_npz(path)
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
