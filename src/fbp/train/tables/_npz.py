"""Reads tables from NPZ files."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fbp.train.tables._cell import is_missing_text
from fbp.train.tables._table import InputError, Table


def read_npz(path: Path) -> Table:
    """Reads an NPZ file; an array of several axes is flattened into numbered columns."""
    columns: dict[str, np.ndarray] = {}
    parts: dict[str, str] = {}
    not_npz = InputError(f"{path}: expected an NPZ archive, got something else")
    if not zipfile.is_zipfile(path):
        raise not_npz
    try:
        # Arrays of Python objects are refused: unpickling them can run code.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
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
        if is_text:
            gaps = np.vectorize(is_missing_text, otypes=[bool])(array)
            array = np.where(gaps, "", array)
        if array.ndim == 1:
            found = {name: array}
        else:
            flat = array.reshape(len(array), math.prod(array.shape[1:]))
            found = {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
            parts |= dict.fromkeys(found, name)
        if twice := set(found) & set(columns):
            raise InputError(f"{path}: expected one array a column, got two for {min(twice)!r}")
        columns |= found
    return Table(str(path), columns, arrays=parts)
