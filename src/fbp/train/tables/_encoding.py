"""Encodes the columns of a table as arrays for a network, and decodes its outputs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fbp.train.tables._cell import first_text
from fbp.train.tables._form import Form
from fbp.train.tables._labels import Lookup, as_text
from fbp.train.tables._table import InputError, Table


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of x: `(cell - offset) / scale`; with a category, 1 if the cell equals it.

    `low` and `high` are the least and the greatest number it was trained on, if that is known.
    """

    name: str
    offset: float = 0.0
    scale: float = 1.0
    category: str | None = None
    low: float | None = None
    high: float | None = None


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
      read: how the cells of a text file were read, by column.
    """

    kind: str
    target: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    text_target: bool = False
    offset: float = 0.0
    scale: float = 1.0
    read: Mapping[str, Form] = dataclasses.field(default_factory=dict)

    @property
    def forms(self) -> dict[str, Form]:
        """How to read the columns of a file; text stays text, even if it looks like numbers."""
        names = {column.name for column in self.columns if column.category is not None}
        texts = names | ({self.target} if self.text_target else set())
        return {**dict.fromkeys(texts, Form("text")), **self.read}

    @property
    def outputs(self) -> int:
        """The width of the network's output."""
        return len(self.classes) if self.kind == "classification" else 1

    def encode(self, table: Table) -> np.ndarray:
        """Returns x (rows, columns), float32. A missing cell becomes 0, its column's mean."""
        x = np.zeros((len(table), len(self.columns)), np.float32)
        categories = self._categories()
        for name, places in categories.items():
            found = Lookup(self.columns[i].category or "" for i in places)(table.column(name))
            known = np.flatnonzero(found >= 0)
            x[known, np.array(places)[found[known]]] = 1
        for i, column in enumerate(self.columns):
            if column.category is not None:
                continue
            cells = table.column(column.name)
            if cells.dtype != np.float64:
                row = first_text(cells.tolist()) or 0
                raise InputError(
                    f"{table.source}: expected numbers in {column.name!r}, got "
                    f"{str(cells[row])!r} in {table.where(row)}"
                )
            with np.errstate(over="ignore"):
                x[:, i] = np.nan_to_num((cells - column.offset) / column.scale, nan=0.0)
            if not np.isfinite(x[:, i]).all():
                row = int(np.flatnonzero(~np.isfinite(x[:, i]))[0])
                raise InputError(
                    f"{table.source}: {cells[row]:g} in {column.name!r}, {table.where(row)}, is "
                    "too far from the numbers trained on for float32"
                )
        return x

    def encode_target(self, table: Table) -> np.ndarray:
        """Returns the targets: class numbers (rows,), or standardized numbers (rows, 1)."""
        cells = table.column(self.target)
        if self.kind == "regression":
            if cells.dtype != np.float64:
                raise InputError(f"{table.source}: expected numbers in {self.target!r}, got text")
            return ((cells - self.offset) / self.scale).astype(np.float32)[:, None]
        numbers = Lookup(self.classes)(cells)
        if (numbers < 0).any():
            row = int(np.flatnonzero(numbers < 0)[0])
            raise InputError(
                f"{table.source}: expected labels in {self.target!r} to be of "
                f"{list(self.classes)}, got {str(as_text(cells)[row])!r}, {table.where(row)}"
            )
        return numbers

    def unknown(self, table: Table) -> list[str]:
        """Returns lines to print on cells that are missing, of a category never seen in training,
        or beyond the numbers trained on."""
        said = []
        for name, places in self._categories().items():
            cells = table.column(name)
            found = Lookup(self.columns[i].category or "" for i in places)(cells)
            if (found < 0).any():
                new = as_text(cells)[found < 0]
                if missing := int((new == "").sum()):
                    said.append(f"WARNING: column {name!r}: {missing:,} rows with missing cells")
                if rows := len(new) - missing:
                    said.append(
                        f"WARNING: column {name!r}: {rows:,} rows with values never seen in "
                        f"training, as {max(new)!r}"
                    )
        for column in self.columns:
            if column.category is not None:
                continue
            name, cells = column.name, table.column(column.name)
            if missing := int(is_missing(cells).sum()):
                said.append(f"column {name!r}: {missing:,} missing cells, set to its mean")
            if column.low is None or column.high is None:
                continue
            beyond = np.flatnonzero((cells < column.low) | (cells > column.high))
            if beyond.size:
                far = beyond[np.argmax(np.abs(cells[beyond] - column.offset))]
                said.append(
                    f"WARNING: column {name!r}: {beyond.size:,} rows beyond the numbers trained "
                    f"on, {column.low:.6g} to {column.high:.6g}, as {cells[far]:.6g} in "
                    f"{table.where(int(far))}: there the network guesses"
                )
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
        read = {name: Form(**form) for name, form in saved.get("read", {}).items()}
        classes = tuple(saved["classes"])
        return cls(**{**saved, "columns": columns, "classes": classes, "read": read})

    def _categories(self) -> dict[str, list[int]]:
        """The places in x of the categories of each column of text."""
        places: dict[str, list[int]] = {}
        for i, column in enumerate(self.columns):
            if column.category is not None:
                places.setdefault(column.name, []).append(i)
        return places


def is_missing(cells: np.ndarray) -> np.ndarray:
    """A boolean mask of the missing cells."""
    return np.isnan(cells) if cells.dtype == np.float64 else cells == ""
