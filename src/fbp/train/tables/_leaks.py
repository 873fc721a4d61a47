"""Points out columns that give the target away."""

import numpy as np

from fbp.train.tables._encoding import Encoding
from fbp.train.tables._labels import as_text, fold
from fbp.train.tables._table import Table

LEAST_ROWS = 20
# Of the variance of the target, or of its ranks, that a column leaves over.
LEFT_OVER = 1e-4


def leaks(table: Table, encoding: Encoding) -> list[str]:
    """Lines to print on columns that tell the target all by themselves.

    A number does so if it sorts the classes, or a line through it meets every target; a text if
    each of its values stands beside one class alone.
    """
    said = []
    for name in dict.fromkeys(column.name for column in encoding.columns):
        how = _tells(table.columns[name], table.columns[encoding.target], encoding.kind)
        if how:
            said.append(
                f"WARNING: column {name!r} alone gives the target away: {how}. If it is not known "
                "before the target is, leave it out: name the columns to use with --inputs"
            )
    return said


def _tells(cells: np.ndarray, target: np.ndarray, kind: str) -> str | None:
    numbers = cells.dtype == np.float64
    there = ~np.isnan(cells) if numbers else cells != ""
    cells, target = cells[there], target[there]
    if len(cells) < LEAST_ROWS:
        return None
    if kind == "regression":
        return _tells_number(cells, target) if numbers else None
    classes = np.unique([fold(label) for label in as_text(target).tolist()], return_inverse=True)[1]
    if len(np.unique(classes)) < 2:
        return None
    if numbers:
        order = np.argsort(cells, kind="stable")
        values, sorted_classes = cells[order], classes[order]
        changes = np.flatnonzero(np.diff(sorted_classes))
        # Where a class ends, the number must change too.
        parts = len(changes) == classes.max() and (values[changes] < values[changes + 1]).all()
        return "its numbers sort by class" if parts else None
    folded = [fold(label) for label in cells.tolist()]
    pairs = set(zip(folded, classes.tolist(), strict=True))
    several = len(set(folded)) <= len(cells) // 4
    return "each value has one class" if several and len(pairs) == len(set(folded)) else None


def _tells_number(cells: np.ndarray, target: np.ndarray) -> str | None:
    if np.ptp(cells) == 0 or np.ptp(target) == 0:
        return None
    if 1 - np.corrcoef(cells, target)[0, 1] ** 2 < LEFT_OVER:
        return "a straight line through it meets all targets"
    x, y = (np.unique(a, return_inverse=True)[1] for a in (cells, target))
    many = min(x.max(), y.max()) >= LEAST_ROWS
    if many and 1 - np.corrcoef(x, y)[0, 1] ** 2 < LEFT_OVER:
        return "it has the order of the targets"
    return None
