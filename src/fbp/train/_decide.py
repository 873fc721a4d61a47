"""Deciding from its rows how a table is to be learned from."""

import math

import numpy as np

from fbp.train._encoding import Column, Encoding, as_text
from fbp.train._table import InputError, Table

MAX_CATEGORIES = 50
MAX_CLASSES = 20


def split_rows(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to train on and those held out: every fifth in the order of the target.

    Rows are shuffled first, always alike, then sorted by target: both parts have all kinds.
    """
    shuffled = np.random.default_rng(0).permutation(len(target))
    order = shuffled[np.argsort(target[shuffled], kind="stable")]
    held_out = np.arange(len(target)) % 5 == 2
    return np.sort(order[~held_out]), np.sort(order[held_out])


def fit_encoding(
    table: Table, target: str, rows: np.ndarray, kind: str | None
) -> tuple[Encoding, list[str]]:
    """Decides from the training rows how to encode a table, and says what it decided.

    Numbers are standardized, text becomes one column a category. A constant column carries nothing
    and is left out, as is text with more than 50 values (a name, a date).

    Raises:
      InputError: a column is empty; no column is left; the target has one value only.
    """
    said, columns = [], []
    for name, cells in table.columns.items():
        if name == target:
            continue
        train = cells[rows]
        if train.dtype != np.float64:
            categories = sorted(set(map(str, train)))
            if len(categories) > MAX_CATEGORIES:
                said.append(f"column {name!r}: text with {len(categories)} values, left out")
            elif len(categories) == 1:
                said.append(f"column {name!r}: constant, left out")
            else:
                columns += [Column(name, category=c) for c in categories]
            continue
        there = train[~np.isnan(train)]
        if not there.size:
            raise InputError(f"{table.source}: column {name!r} is empty: remove it, or fill it in")
        mean, std = float(there.mean()), float(there.std())
        if not math.isfinite(std):
            raise InputError(f"{table.source}: the numbers in {name!r} are too large to average")
        if std <= 1e-12 * max(abs(mean), np.abs(there).max()):
            said.append(f"column {name!r}: constant, left out")
            continue
        if missing := int(np.isnan(cells).sum()):
            said.append(f"column {name!r}: {missing} missing cells, set to its mean {mean:.4g}")
        columns.append(Column(name, mean, std))
    if not columns:
        raise InputError(
            f"{table.source}: expected a column that varies besides {target!r}, got none"
        )
    return _fit_target(table, target, rows, kind, tuple(columns), said), said


def _fit_target(
    table: Table,
    target: str,
    rows: np.ndarray,
    kind: str | None,
    columns: tuple[Column, ...],
    said: list[str],
) -> Encoding:
    cells = table.column(target)
    labels = sorted(set(as_text(cells)), key=_by_number)
    if kind is None:
        kind, why = _infer_kind(cells, len(labels))
        said.append(f"target {target!r}: {kind}, because {why}")
    if len(labels) < 2:
        raise InputError(f"{table.source}: expected a target with two values or more, got {labels}")
    if kind == "classification":
        return Encoding(kind, target, columns, tuple(labels))
    if cells.dtype != np.float64:
        raise InputError(f"{table.source}: expected numbers in {target!r} to regress on, got text")
    train = cells[rows]
    return Encoding(
        kind, target, columns, offset=float(train.mean()), scale=float(train.std()) or 1.0
    )


def _infer_kind(cells: np.ndarray, values: int) -> tuple[str, str]:
    if cells.dtype != np.float64:
        return "classification", f"it is text with {values} values"
    if (cells == np.round(cells)).all() and values <= MAX_CLASSES and values * 4 <= len(cells):
        return "classification", f"it is whole numbers with {values} values"
    return "regression", "it is numbers"


def _by_number(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return math.inf, label
