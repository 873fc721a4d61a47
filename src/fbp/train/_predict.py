"""Predicts the rows of a file with a trained network."""

import csv
import os
from pathlib import Path

import jax
import numpy as np

from fbp.train._run import Run
from fbp.train.tables._encoding import Encoding, is_missing
from fbp.train.tables._read import read_table
from fbp.train.tables._table import InputError, Table


def predict(run: Run, data: Path, out: Path) -> tuple[int, dict[str, float], list[str]]:
    """Writes a CSV with a prediction for every row of a file.

    Args:
      run: a finished run.
      data: a CSV or NPZ file with the columns it was trained on; the target may be missing.
      out: the file to write: a column `prediction` and, for classes, a probability for each.

    Returns:
      The number of rows; the accuracy or error, if the file has the target; and lines to print.

    Raises:
      InputError: the run or the file cannot be used; `out` exists already or cannot be written.
    """
    if os.path.lexists(out):
        raise InputError(f"{out} is there already and is kept: choose another --out")
    model, params, encoding = run.load()
    table, said = _by_position(read_table(data, encoding.text_columns), encoding)
    x = encoding.encode(table)
    said += encoding.unknown(table)
    y = np.asarray(jax.jit(lambda x: model.forward(params, x)[0])(x))
    columns = encoding.decode(y)
    try:
        quality = _quality(table, encoding, columns["prediction"])
    except InputError as error:
        # The target cannot be encoded, as with labels never seen in training. The predictions do
        # not depend on it.
        quality, said = {}, [*said, f"not compared with {encoding.target!r}: {error}"]
    _write(out, columns)
    return len(table), quality, said


def _by_position(table: Table, encoding: Encoding) -> tuple[Table, list[str]]:
    """Renames the numbered columns of an NPZ array to those of the run, if there are as many."""
    names = [column.name for column in encoding.columns]
    given = {name: cells for name, cells in table.columns.items() if name != encoding.target}
    if table.named or set(names) <= set(given) or len(given) != len(names):
        return table, []
    columns = dict(zip(names, given.values(), strict=True))
    if encoding.target in table.columns:
        columns[encoding.target] = table.columns[encoding.target]
    return Table(table.source, columns), [f"{table.source}: columns taken by their position"]


def _quality(table: Table, encoding: Encoding, prediction: np.ndarray) -> dict[str, float]:
    if encoding.target not in table.columns:
        return {}
    cells = table.columns[encoding.target]
    there = ~is_missing(cells)
    if not there.any():
        return {}
    target = encoding.encode_target(Table(table.source, {encoding.target: cells[there]}))
    if encoding.kind == "classification":
        return {"accuracy": float((np.array(encoding.classes)[target] == prediction[there]).mean())}
    error = prediction[there] - (target[:, 0] * encoding.scale + encoding.offset)
    return {"root mean squared error": float(np.sqrt((error**2).mean()))}


def _write(out: Path, columns: dict[str, np.ndarray]) -> None:
    # float32 holds about seven significant digits.
    cells = [
        [f"{v:.7g}" if isinstance(v, float) else v for v in column.tolist()]
        for column in columns.values()
    ]
    try:
        file = open(out, "x", newline="", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        with file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*cells, strict=True))
    except OSError as error:
        out.unlink()
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
