"""Reads a table from a file, in the format that its suffix names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fbp.train.tables._csv import read_csv
from fbp.train.tables._form import Form
from fbp.train.tables._frame import read_frame
from fbp.train.tables._npz import read_npz
from fbp.train.tables._table import InputError, Table

TEXT_FORMATS = (".csv", ".tsv", ".txt")
FORMATS = (*TEXT_FORMATS, ".npz", ".parquet", ".xlsx")


def read_table(path: str | Path, forms: Mapping[str, Form] | None = None) -> Table:
    """Reads FILE.csv, .tsv or .txt (names in the first line), perhaps with .gz behind, FILE.npz
    (named arrays), FILE.parquet or FILE.xlsx (its first sheet).

    Args:
      path: the file.
      forms: how to read the columns that are known, as those a network was trained on.

    Raises:
      InputError: the file is missing or not in the format of its suffix, or it has no rows, rows
        of different lengths, duplicate column names, infinite numbers, or arrays of Python objects.
    """
    path, forms = Path(path), forms or {}
    suffix = path.suffix.lower()
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
        suffix = suffix if suffix in TEXT_FORMATS else ".gz"
    if suffix not in FORMATS:
        raise InputError(f"{path}: expected a file named {', '.join(FORMATS)}, or as .csv.gz")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if suffix in TEXT_FORMATS:
            table = read_csv(path, forms)
        else:
            table = read_npz(path) if suffix == ".npz" else read_frame(path, forms)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise InputError(f"{path}: expected rows of data, got none")
    for name, column in table.columns.items():
        if column.dtype == np.float64 and np.isinf(column).any():
            row = int(np.flatnonzero(np.isinf(column))[0])
            raise InputError(
                f"{path}: expected finite numbers in {name!r}, got infinity, {table.where(row)}"
            )
    return table
