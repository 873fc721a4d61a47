"""The task of a user's table, and how it is learned."""

from pathlib import Path
from typing import Any

import numpy as np

from fbp.train._tasks import Task
from fbp.train.tables._decide import fit_encoding, split_rows
from fbp.train.tables._encoding import is_missing
from fbp.train.tables._read import read_table
from fbp.train.tables._table import InputError
from fbp.train.tables._totals import summed

# Up to this many rows, several networks are trained where one would do.
FEW_ROWS = 10_000


def table_task(
    path: str | Path,
    target: str,
    kind: str | None = None,
    inputs: tuple[str, ...] | None = None,
) -> Task:
    """A task from a table in a file. Rows without a target are left out and counted in `said`.

    Args:
      path: the file, in a format of `read_table`.
      target: the name of the column to predict.
      kind: "regression" or "classification"; inferred from the target when None.
      inputs: the columns to learn from; None is all that can be used.

    Raises:
      InputError: the file cannot be used; the message is one line.
    """
    table = read_table(path)
    missing = is_missing(table.column(target))
    if missing.all():
        raise InputError(f"{path}: the target {target!r} is empty in every row")
    if totals := summed(table):
        named = " and ".join(map(repr, totals[:3]))
        where = table.where(len(table) - 1)
        table = table.rows(np.arange(len(table)) < len(table) - 1)
        missing = missing[:-1]
        sums = f"WARNING: {where} is left out: its number in {named} is the sum of all others"
    said = [f"rows without {target!r}: {missing.sum():,}, left out"] if missing.any() else []
    said += [sums] if totals else []
    table = table.rows(~missing)
    cells = table.column(target)
    # `split_rows` sorts by target; for text any order that keeps equal targets together will do.
    rows, held_out_rows = split_rows(cells)
    encoding, decided = fit_encoding(table, target, rows, kind, inputs)
    x, y = encoding.encode(table), encoding.encode_target(table)
    held_out = (x[held_out_rows], y[held_out_rows]) if len(held_out_rows) else None
    if held_out is None:
        said.append(f"{len(table)} rows are too few to hold any out: nothing is validated")
    n = len(rows)
    return Task(
        _stem(path),
        encoding,
        train=(x[rows], y[rows]),
        held_out=held_out,
        said=(*said, *decided),
        **recipe(n),
    )


def recipe(rows: int) -> dict[str, Any]:
    """How to learn a table, by the rows to train on.

    Tried on 24 tables of 25 to 43,000 rows, with five networks a table. Where rows are few, a
    network over-fits within a hundred steps unless its weights decay strongly, and the mean of
    five is better than one by about what a standard deviation of either is; where they are many,
    it has to be trained for longer, and one is enough.
    """
    few = rows <= FEW_ROWS
    return {
        # With less than two rows for each part, the loss on those left out says nothing.
        "members": None if rows < 10 else 5 if few else 1,
        "hidden": (64, 64) if few else (128, 128),
        "steps": min(max(rows, 1000), 5000),
        "batch": 64 if few else 256,
        "lr": 3e-3,
        "weight_decay": min(1.0, 500 / rows),
        "chunks": 50,
        "patience": 20,
    }


def _stem(path: str | Path) -> str:
    """The name of a file without .csv or .csv.gz."""
    path = Path(path)
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
