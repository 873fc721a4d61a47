"""Reading a table from a file, by what its name says it is."""

from pathlib import Path

import numpy as np

from fbp.train.tables._csv import read_csv
from fbp.train.tables._npz import read_npz
from fbp.train.tables._table import InputError, Table


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
