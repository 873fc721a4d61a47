"""A table: named columns of numbers or of text."""

import dataclasses
import difflib

import numpy as np

from fbp._errors import InputError as InputError


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of one length. A column is float64, with NaN where a cell is missing, or text.

    Attributes:
      source: its name in messages: a file, or a built-in data set.
      columns: the columns by name, in the order of the file.
      named: whether the file names every column; columns of a flattened NPZ array are numbered.
    """

    source: str
    columns: dict[str, np.ndarray]
    named: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> np.ndarray:
        """The column of that name.

        Raises:
          InputError: there is none; the message suggests or lists existing names.
        """
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {_some(list(self.columns))}"
            raise InputError(f"{self.source}: expected a column {name!r}; {hint}")
        return self.columns[name]


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
