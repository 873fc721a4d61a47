"""Decides from a table's rows how to encode it and which rows to hold out."""

import numpy as np

from fbp.train.tables._encoding import Encoding
from fbp.train.tables._inputs import fit_inputs
from fbp.train.tables._leaks import leaks
from fbp.train.tables._table import Table
from fbp.train.tables._target import fit_target


def split_rows(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to train on and the held-out rows: every fifth, ordered by target.

    Rows are shuffled with a fixed seed, then sorted by target, so that both parts cover the
    target's whole range.
    """
    shuffled = np.random.default_rng(0).permutation(len(target))
    order = shuffled[np.argsort(target[shuffled], kind="stable")]
    held_out = np.arange(len(target)) % 5 == 2
    return np.sort(order[~held_out]), np.sort(order[held_out])


def fit_encoding(
    table: Table,
    target: str,
    rows: np.ndarray,
    kind: str | None,
    inputs: tuple[str, ...] | None = None,
) -> tuple[Encoding, list[str]]:
    """Decides from the training rows how to encode a table; returns that and lines to print.

    Args:
      table: the table, without rows that lack the target.
      target: the column to predict.
      rows: those to train on.
      kind: "regression" or "classification"; None decides.
      inputs: the columns to use; None decides.

    Raises:
      InputError: the inputs or the target cannot be used; the message is one line.
    """
    fields, said = fit_target(table, target, rows, kind)
    columns, more = fit_inputs(table, target, rows, inputs)
    used = {target, *(column.name for column in columns)}
    read = {name: form for name, form in table.forms.items() if name in used}
    encoding = Encoding(target=target, columns=columns, read=read, **fields)
    return encoding, [*table.said.get("", ()), *said, *more, *leaks(table, encoding)]
