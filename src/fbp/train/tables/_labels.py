"""Labels: the text of classes and categories, and which spellings are the same."""

from collections import Counter
from collections.abc import Iterable

import numpy as np


def as_text(cells: np.ndarray) -> np.ndarray:
    """Cells as text labels: 3.0 becomes "3"."""
    if cells.dtype != np.float64:
        return cells
    return np.array([f"{c + 0.0:.0f}" if c.is_integer() else repr(c) for c in cells.tolist()])


def fold(label: str) -> str:
    """What spellings of one word share: `High` and `HIGH ` do, but not the letters `a` and `A`, or
    the genotypes `AA` and `Aa`."""
    return " ".join(label.split()).casefold() if len(set(label.casefold())) > 1 else label


def spellings(labels: Iterable[str]) -> dict[str, list[str]]:
    """The spellings of each folded label, the commonest first."""
    found: dict[str, list[str]] = {}
    for label, _ in sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])):
        found.setdefault(fold(label), []).append(label)
    return found


def joined(name: str, found: dict[str, list[str]]) -> list[str]:
    """Lines to print on spellings that were taken as one label."""
    return [
        f"WARNING: column {name!r}: {', '.join(map(repr, several))} taken as one label"
        for several in found.values()
        if len(several) > 1
    ]


class Lookup:
    """The numbers of labels, whatever their spelling."""

    def __init__(self, labels: Iterable[str]):
        labels = list(labels)
        folded = [fold(label) for label in labels]
        # Labels of which two differ by their spelling alone are looked up as they are.
        self._fold = fold if len(set(folded)) == len(folded) else str
        self._numbers = {self._fold(label): i for i, label in enumerate(labels)}

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        """The number of each cell's label, -1 where it is none of them."""
        different, of = np.unique(as_text(cells), return_inverse=True)
        numbers = [self._numbers.get(self._fold(label), -1) for label in different.tolist()]
        return np.array(numbers, np.int32)[of]
