"""Which pass of a layer it is whose output is computed again."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fbp._layer import PyTree


def pass_of(y: PyTree, passes: list[dict[str, PyTree]]) -> int:
    """The pass whose y this is, computed again: loops take their copies in orders of their own."""
    far = [sum(_off(a, b) for a, b in _pairs(y, one.get("y"))) for one in passes]
    return int(np.argmin(far)) if far else 0


def _pairs(a: PyTree, b: PyTree) -> Iterator[tuple[Any, Any]]:
    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=False)


def _off(a: Any, b: Any) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinity from infinity
        return float(np.nan_to_num(np.abs(a.astype(np.float64) - b.astype(np.float64))).sum())
