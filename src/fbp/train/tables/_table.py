"""A table: named columns of numbers or of text."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from fbp._errors import InputError as InputError
from fbp.train.tables._form import Form


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of one length. A column is float64, with NaN where a cell is missing, or text.

    Attributes:
      source: its name in messages: a file, or a built-in data set.
      columns: the columns by name, in the order of the file.
      forms: how the cells of a column were read; what is not here is as its dtype says.
      arrays: of the numbered columns of a flattened NPZ array: its name.
      said: lines to print on how the file was read, by column; "" is the whole file.
      lines: the line of the file that each row ends on, if it has lines.
      written: the cells as the file has them, where it is text, each column joined by NUL.
    """

    source: str
    columns: dict[str, np.ndarray]
    forms: Mapping[str, Form] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, str] = dataclasses.field(default_factory=dict)
    said: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    lines: np.ndarray | None = None
    written: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> np.ndarray:
        """The column of that name.

        Raises:
          InputError: there is none; the message suggests or lists existing names.
        """
        if name not in self.columns:
            parts = [column for column, array in self.arrays.items() if array == name]
            near = difflib.get_close_matches(name, self.columns, n=1)
            if parts:
                hint = f"the array {name!r} has {len(parts)} columns: {_some(parts)}"
            else:
                hint = f"did you mean {near[0]!r}?" if near else f"it has {_some([*self.columns])}"
            raise InputError(f"{self.source}: expected a column {name!r}; {hint}")
        return self.columns[name]

    def where(self, row: int) -> str:
        """Where a row is, in words: its line in an editor, or its number from 1."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def rows(self, keep: np.ndarray) -> "Table":
        """The table of some rows."""
        columns = {name: cells[keep] for name, cells in self.columns.items()}
        lines = np.arange(len(self)) + 1 if self.lines is None else self.lines
        return dataclasses.replace(self, columns=columns, lines=lines[keep], written={})

    def as_written(self, name: str) -> list[str]:
        """The cells of a column as the file has them, or as near to it as their numbers tell."""
        if name in self.written:
            return self.written[name].split("\0")
        cells = self.columns[name]
        if cells.dtype != np.float64:
            return cells.tolist()
        return ["" if cell != cell else f"{cell:.17g}" for cell in cells.tolist()]


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
