"""Encodes the columns of a table as arrays for a network, and decodes its outputs."""

import dataclasses
from typing import Any

import numpy as np

from fbp.train.tables._csv import number_of
from fbp.train.tables._table import InputError, Table


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of x: `(cell - offset) / scale`; with a category, 1 if the cell equals it."""

    name: str
    offset: float = 0.0
    scale: float = 1.0
    category: str | None = None


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a table becomes x and target. All its fields can be written as JSON.

    Attributes:
      kind: "regression" or "classification".
      target: the name of the target column.
      columns: the columns of x.
      classes: the labels, in the order of their class numbers; empty for regression.
      text_target: whether the labels are text, so that "01" and "1" differ.
      offset, scale: a regression's target is `(cell - offset) / scale`.
    """

    kind: str
    target: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    text_target: bool = False
    offset: float = 0.0
    scale: float = 1.0

    @property
    def text_columns(self) -> frozenset[str]:
        """The columns to read as text, even if their cells look like numbers."""
        names = {column.name for column in self.columns if column.category is not None}
        return frozenset(names | ({self.target} if self.text_target else set()))

    @property
    def outputs(self) -> int:
        """The width of the network's output."""
        return len(self.classes) if self.kind == "classification" else 1

    def encode(self, table: Table) -> np.ndarray:
        """Returns x (rows, columns), float32. A missing cell becomes 0, its column's mean."""
        x = np.zeros((len(table), len(self.columns)), np.float32)
        for i, column in enumerate(self.columns):
            cells = table.column(column.name)
            if column.category is not None:
                x[:, i] = as_text(cells) == column.category
            elif cells.dtype != np.float64:
                wrong = next(c for c in cells.tolist() if number_of(c) is None)
                raise InputError(
                    f"{table.source}: expected numbers in {column.name!r}, got {wrong!r}"
                )
            else:
                with np.errstate(over="ignore"):
                    x[:, i] = np.nan_to_num((cells - column.offset) / column.scale, nan=0.0)
        if not np.isfinite(x).all():
            name = self.columns[int(np.flatnonzero(~np.isfinite(x).all(0))[0])].name
            raise InputError(
                f"{table.source}: the numbers in {name!r} are too far apart for float32"
            )
        return x

    def encode_target(self, table: Table) -> np.ndarray:
        """Returns the targets: class numbers (rows,), or standardized numbers (rows, 1)."""
        cells = table.column(self.target)
        if self.kind == "regression":
            if cells.dtype != np.float64:
                raise InputError(f"{table.source}: expected numbers in {self.target!r}, got text")
            return ((cells - self.offset) / self.scale).astype(np.float32)[:, None]
        number = {label: i for i, label in enumerate(self.classes)}
        labels = as_text(cells).tolist()
        unknown = set(labels) - set(number)
        if unknown:
            raise InputError(
                f"{table.source}: expected labels in {self.target!r} to be of "
                f"{list(self.classes)}, got {min(unknown)!r}"
            )
        return np.array([number[label] for label in labels], np.int32)

    def unknown(self, table: Table) -> list[str]:
        """Returns lines to print on missing cells and on values never seen in training."""
        said = []
        for name in dict.fromkeys(column.name for column in self.columns):
            cells = table.column(name)
            categories = {c.category for c in self.columns if c.name == name}
            if categories == {None}:
                if missing := int(is_missing(cells).sum()):
                    said.append(f"column {name!r}: {missing} missing cells, set to its mean")
            elif new := set(as_text(cells).tolist()) - categories:
                said.append(f"column {name!r}: values never seen in training, as {min(new)!r}")
        return said

    def decode(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the columns of a prediction file, computed from the network's output."""
        if self.kind == "regression":
            return {"prediction": y[:, 0].astype(np.float64) * self.scale + self.offset}
        z = np.exp(y - y.max(-1, keepdims=True))
        p = z / z.sum(-1, keepdims=True)
        columns = {"prediction": np.array(self.classes)[y.argmax(-1)]}
        return columns | {f"p_{label}": p[:, i] for i, label in enumerate(self.classes)}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Encoding":
        columns = tuple(Column(**column) for column in saved["columns"])
        return cls(**{**saved, "columns": columns, "classes": tuple(saved["classes"])})


def is_missing(cells: np.ndarray) -> np.ndarray:
    """A boolean mask of the missing cells."""
    if cells.dtype == np.float64:
        return np.isnan(cells)
    # In text only an empty cell is missing: "none" can be a label.
    return cells == ""


def as_text(cells: np.ndarray) -> np.ndarray:
    """Cells as text labels: 3.0 becomes "3"."""
    if cells.dtype != np.float64:
        return cells
    return np.array([f"{c + 0.0:.0f}" if c.is_integer() else repr(c) for c in cells.tolist()])
