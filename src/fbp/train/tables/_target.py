"""Decides what to do with the target: which numbers or labels to predict."""

import math

import numpy as np

from fbp.train.tables._cell import first_text, plain_number
from fbp.train.tables._form import Form
from fbp.train.tables._inputs import mean_and_spread, require_near
from fbp.train.tables._labels import as_text, joined, spellings
from fbp.train.tables._table import InputError, Table

MAX_CLASSES = 20
# More whole numbers than that are still classes if they count on from 0 or 1 without a gap, each
# as common as the others, as the letters of an alphabet are.
MAX_EVEN_CLASSES = 1000


def fit_target(
    table: Table, target: str, rows: np.ndarray, kind: str | None
) -> tuple[dict, list[str]]:
    """Decides how to encode the target; returns the fields of an `Encoding` and lines to print.

    Raises:
      InputError: the target has only one value, is text that cannot be regressed on, or has too
        many labels or numbers for classes.
    """
    cells, said = table.column(target), list(table.said.get(target, ()))
    is_text = cells.dtype != np.float64
    found = spellings(as_text(cells).tolist())
    labels = sorted((names[0] for names in found.values()), key=_by_number)
    if kind is None:
        kind, why = _infer_kind(cells, len(labels), table.forms.get(target, Form()))
        said.append(f"target {target!r}: {kind}, because {why}")
    if len(labels) < 2:
        raise InputError(
            f"{table.source}: expected a target with two values or more, got {labels}"
            + "".join(f"; {line.removeprefix('WARNING: ')}" for line in joined(target, found))
        )
    if kind == "classification":
        _require_classes(table, target, labels)
        said += joined(target, found) if is_text else []
        return {"kind": kind, "classes": tuple(labels), "text_target": is_text}, said
    if is_text:
        raise InputError(
            f"{table.source}: expected numbers in {target!r} to regress on, got text"
            + _a_text(table, target)
        )
    require_near(table, target)
    offset, scale = mean_and_spread(table, target, cells[rows])
    return {"kind": kind, "offset": offset, "scale": scale or 1.0}, said


def _infer_kind(cells: np.ndarray, values: int, form: Form) -> tuple[str, str]:
    if form.kind == "date":
        return "regression", "it is dates, as days since 1970"
    if cells.dtype != np.float64:
        return "classification", f"it is text with {values} values"
    if not (cells == np.round(cells)).all():
        return "regression", "it is numbers"
    words = f"it is whole numbers with {values} values"
    if values <= MAX_CLASSES and values * 4 <= len(cells):
        return "classification", f"{words} (else: --kind regression)"
    if values <= MAX_EVEN_CLASSES and values * 10 <= len(cells) and cells.min() in (0, 1):
        _, counts = np.unique(cells, return_counts=True)
        if np.ptp(cells) + 1 == values and counts.min() * 2 >= counts.mean():
            return "classification", f"{words}, all about as common (else: --kind regression)"
    if values <= 100:
        return "regression", f"{words} (if these are labels: --kind classification)"
    return "regression", words


def _require_classes(table: Table, target: str, labels: list[str]) -> None:
    cells = table.columns[target]
    is_text = cells.dtype != np.float64
    most = max(MAX_CLASSES, len(cells) // 4)
    if not is_text and not (cells == np.round(cells)).all():
        most = MAX_CLASSES  # fractions are labels only if there are few
    if len(labels) > most:
        what = "texts" if is_text else "numbers"
        raise InputError(
            f"{table.source}: expected {'numbers or ' if is_text else ''}labels that repeat in "
            f"{target!r}, got {len(labels)} different {what}, as {labels[0]!r}"
            + (_a_text(table, target) if is_text else "")
            + "".join(f"; {line.removeprefix('WARNING: ')}" for line in table.said.get(target, ()))
        )


def _a_text(table: Table, target: str) -> str:
    """The first cell that is no number, in words, if there are numbers too."""
    cells = table.columns[target].tolist()
    row = first_text(cells)
    if row is None or not any(plain_number(cell) is not None for cell in cells):
        return ""
    return f"; {cells[row]!r} in {table.where(row)} is no number"


def _by_number(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return math.inf, label
