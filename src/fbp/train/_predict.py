"""Predicts the rows of a file with a trained network."""

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from fbp._layer import Layer, Params
from fbp.train._run import Run
from fbp.train._stored import load
from fbp.train.tables._cell import varied
from fbp.train.tables._encoding import Encoding, is_missing
from fbp.train.tables._read import read_table
from fbp.train.tables._scores import Scores, scores
from fbp.train.tables._table import InputError, Table


def answering(model: Layer, params: Params) -> Callable[[np.ndarray], np.ndarray]:
    """The function from x to y.

    The parameters are arguments of the compiled program, not constants in it: with the weights of
    a last layer that are all 0 as constants, XLA's CPU gives NaN for a product of several networks.
    """
    forward = jax.jit(lambda params, x: model.forward(params, x)[0])
    return lambda x: np.asarray(forward(params, x))


def predict(run: Run, data: Path, out: Path) -> tuple[int, Scores | None, list[str]]:
    """Writes a CSV with a file's columns and, beside each row, its prediction.

    Args:
      run: a finished run.
      data: a table with the columns it was trained on; the target may be missing.
      out: the file to write: the columns of the table, a column `prediction` and, for classes, a
        probability for each.

    Returns:
      The number of rows; how good the predictions are, if the file has the target; and lines to
      print.

    Raises:
      InputError: the run or the file cannot be used; `out` exists already or cannot be written.
    """
    if os.path.lexists(out):
        raise InputError(f"{out} is there already and is kept: choose another --out")
    if out.suffix.lower() != ".csv":
        raise InputError(f"{out}: expected a name that ends in .csv, which is what is written")
    model, params, encoding = load(run)
    file = read_table(data, encoding.forms)
    table, said = _by_position(file, encoding)
    said += [line for name, lines in file.said.items() if not name for line in lines]
    x = encoding.encode(table)
    said += encoding.unknown(table)
    y = answering(model, params)(x)
    try:
        quality = _quality(table, encoding, y)
    except InputError as error:
        # The target cannot be encoded, as with labels never seen in training. The predictions do
        # not depend on it.
        quality, said = None, [*said, f"not compared with {encoding.target!r}: {error}"]
    _write(out, _beside(file, encoding.decode(y), encoding.scale))
    return len(table), quality, said


def _by_position(table: Table, encoding: Encoding) -> tuple[Table, list[str]]:
    """Renames the numbered columns of an NPZ array to those of the run, if there are as many."""
    names = [column.name for column in encoding.columns]
    given = {name: cells for name, cells in table.columns.items() if name != encoding.target}
    if not table.arrays or set(names) <= set(given) or len(given) != len(names):
        return table, []
    columns = dict(zip(names, given.values(), strict=True))
    if encoding.target in table.columns:
        columns[encoding.target] = table.columns[encoding.target]
    renamed = dataclasses.replace(table, columns=columns, said={}, forms={}, arrays={}, written={})
    return renamed, [f"{table.source}: columns taken by their position"]


def _quality(table: Table, encoding: Encoding, y: np.ndarray) -> Scores | None:
    if encoding.target not in table.columns:
        return None
    there = ~is_missing(table.columns[encoding.target])
    if not there.any():
        return None
    return scores(encoding, y[there], encoding.encode_target(table.rows(there)))


def _beside(table: Table, predictions: dict[str, np.ndarray], scale: float) -> dict[str, list[str]]:
    """The columns of a table as they are written, and behind them the predictions."""
    columns = {name: table.as_written(name) for name in table.columns}
    for name, column in predictions.items():
        while name in columns:
            name += "_"
        # The network's float32 holds about seven digits of what varies.
        cells = column.tolist()
        columns[name] = [varied(v, scale, 7) if isinstance(v, float) else v for v in cells]
    return columns


def _write(out: Path, columns: dict[str, list[str]]) -> None:
    try:
        file = open(out, "x", newline="", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        with file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    except OSError as error:
        out.unlink()
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
