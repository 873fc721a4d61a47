"""The arrays of a page: each once, as rows and columns, cut to what fits."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Sides of the corner that is left of an array which does not fit, the largest that fits is taken.
SIDES = (32, 24, 16, 12, 8, 4, 2, 1)
# A number takes 4 bytes, and base64 makes 4 letters of 3.
LETTERS = 16 / 3


class Pool:
    """Distinct arrays by number, with what is known of the whole of each."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._seen: dict[tuple[int, int, bytes], int] = {}

    def put(self, a: Any, axes: int = 1) -> int:
        """The number of an array, whose last `axes` axes make a row."""
        a = np.asarray(a)
        flat = np.ascontiguousarray(a.astype(np.float32)).reshape(grid(a.shape, axes))
        key = (*flat.shape, flat.tobytes())
        if key not in self._seen:
            self._seen[key] = len(self.arrays)
            self.arrays.append(flat)
        return self._seen[key]

    def size(self) -> int:
        return sum(a.size for a in self.arrays)


def grid(shape: Sequence[int], axes: int = 1) -> tuple[int, int]:
    """Rows and columns to show an array in."""
    return math.prod(shape[:-axes]), math.prod(shape[-axes:])


def parts(arrays: Sequence[np.ndarray], wanted: Sequence[Sequence[int]], room: int) -> list[Any]:
    """Which rows and columns of each array are held, so that the page has `room` letters of them.

    Args:
      arrays: all.
      wanted: numbers of arrays that belong together, the first to be held whole first.
      room: letters of base64.
    """
    most = int(room / LETTERS) - len(arrays)  # each array is filled up to 3 bytes
    if sum(a.size for a in arrays) <= most:
        return [a.shape for a in arrays]
    for side in SIDES:
        held = [(min(side, a.shape[0]), min(side, a.shape[1])) for a in arrays]
        left = most - sum(r * c for r, c in held)
        if left > 0.8 * most:  # a layer that is whole has true sums, a corner has few
            break
    for together in wanted:
        new = {i for i in together if held[i] != arrays[i].shape}
        more = sum(arrays[i].size - math.prod(held[i]) for i in new)
        if more <= left:
            left -= more
            for i in new:
                held[i] = arrays[i].shape
    return held


def stored(a: np.ndarray, held: tuple[int, int]) -> dict[str, Any]:
    """An array for the page: its rows and columns, those held, and what is true of the whole."""
    finite = a[np.isfinite(a)].astype(np.float64)
    part = np.ascontiguousarray(a[: held[0], : held[1]], "<f4")
    return {
        "R": a.shape[0],
        "C": a.shape[1],
        "r": held[0],
        "c": held[1],
        "max": float(np.abs(finite).max(initial=0.0)),
        "rms": float(np.sqrt((finite**2).mean())) if finite.size else 0.0,
        "sign": int(finite.min(initial=0.0) >= 0) - int(finite.max(initial=0.0) <= 0),
        "nan": int(np.isnan(a).sum()),
        "inf": int(np.isinf(a).sum()),
        "d": base64.b64encode(part.tobytes()).decode(),
    }
