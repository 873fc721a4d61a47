"""Decides from a table's rows how to encode it and which rows to hold out."""

import math

import numpy as np

from fbp.train.tables._encoding import Column, Encoding, as_text
from fbp.train.tables._table import InputError, Table

MAX_CATEGORIES = 50
MAX_CLASSES = 20


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
    table: Table, target: str, rows: np.ndarray, kind: str | None
) -> tuple[Encoding, list[str]]:
    """Decides from the training rows how to encode a table; returns that and lines to print.

    Numbers are standardized; text becomes one column per category. Constant columns are left out.
    So is text with more than 50 values, or with more than half as many values as there are rows:
    it is likely a name or a date.

    Raises:
      InputError: a column is empty; no column is left; the target has only one value, or is text
        that cannot be regressed on or has too many labels.
    """
    said, columns = [], []
    for name, cells in table.columns.items():
        if name == target:
            continue
        train = cells[rows]
        if train.dtype != np.float64:
            categories = sorted(set(train.tolist()))
            if len(categories) > min(MAX_CATEGORIES, len(train) // 2):
                said.append(f"column {name!r}: text with {len(categories)} values, left out")
            elif len(categories) == 1:
                said.append(f"column {name!r}: constant, left out")
            else:
                said.append(
                    f"column {name!r}: text, one input for each of {len(categories)} values"
                )
                columns += [Column(name, category=c) for c in categories]
            continue
        there = train[~np.isnan(train)]
        if not there.size:
            raise InputError(f"{table.source}: column {name!r} is empty: remove it, or fill it in")
        with np.errstate(over="ignore", invalid="ignore"):
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
    labels = sorted(set(as_text(cells).tolist()), key=_by_number)
    if kind is None:
        kind, why = _infer_kind(cells, len(labels))
        said.append(f"target {target!r}: {kind}, because {why}")
    if len(labels) < 2:
        raise InputError(f"{table.source}: expected a target with two values or more, got {labels}")
    if kind == "classification":
        is_text = cells.dtype != np.float64
        if is_text and len(labels) > max(MAX_CLASSES, len(cells) // 4):
            raise InputError(
                f"{table.source}: expected numbers or labels that repeat in {target!r}, "
                f"got {len(labels)} different texts, as {labels[0]!r}"
            )
        return Encoding(kind, target, columns, tuple(labels), text_target=is_text)
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
