"""Reads tables from Parquet and Excel files, by pandas."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fbp.train.tables._form import Form
from fbp.train.tables._read_columns import read_columns
from fbp.train.tables._table import InputError, Table


def read_frame(path: Path, forms: Mapping[str, Form]) -> Table:
    """Reads a .parquet file, or the first sheet of an .xlsx file."""
    try:
        import pandas
    except ImportError:
        raise InputError(
            f"{path}: reading {path.suffix} needs pandas: pip install 'fbp[tables]', "
            "or save it as .csv"
        ) from None
    try:
        is_excel = path.suffix.lower() == ".xlsx"
        if is_excel:  # "None" can be a label: which text is missing is decided later
            frame = pandas.read_excel(path, keep_default_na=False, na_values=[""])
        else:
            frame = pandas.read_parquet(path)
    except ImportError:
        needed = "openpyxl" if is_excel else "pyarrow"
        raise InputError(
            f"{path}: reading {path.suffix} needs {needed}: pip install 'fbp[tables]', "
            "or save it as .csv"
        ) from None
    except OSError:
        raise
    except Exception as error:  # what their parsers raise for a damaged file is not listed anywhere
        raise InputError(
            f"{path}: expected {path.suffix[1:]}, got something else: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    if frame.index.names != [None]:
        frame = frame.reset_index()
    frame = frame.dropna(axis="columns", how="all") if is_excel else frame
    names = [str(name).strip() for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: expected one name a column, got {twice!r} more than once")
    if not len(frame):
        raise InputError(f"{path}: expected rows of data, got none")
    # Numbers that are numbers have a point, whatever the text beside them has.
    numbers = {
        name: Form()
        for name, kind in zip(names, frame.dtypes, strict=True)
        if pandas.api.types.is_numeric_dtype(kind)
        and not pandas.api.types.is_bool_dtype(kind)
        and forms.get(name, Form()).kind == "number"
    }
    frame = frame.astype(object).where(frame.notna(), None)
    written = {
        name: "\0".join(map(_written, frame.iloc[:, i].tolist())) for i, name in enumerate(names)
    }
    # In a sheet the names are in line 1.
    lines = np.arange(len(frame)) + (2 if is_excel else 1)
    return read_columns(str(path), written, lines, {**forms, **numbers})


def _written(value: Any) -> str:
    """A cell as a CSV file has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return " ".join(str(value).replace("\0", " ").split())
