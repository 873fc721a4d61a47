"""Arrays that a layer computes on its way and does not keep, made again for the page in float64."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Made:
    """What a page adds to a pass of a layer.

    Attributes:
      given: facts that its sums need, such as a scale.
      arrays: (name, side, array): side "made" is of the forward, "dmade" of the backward, and "res"
        of what the layer keeps, in place of the names that its tree has.
      note: what to say of them.
      names: new names of traced arrays, by the names they have.
      parts: of arrays whose rows have parts, such as heads, what each part is.
    """

    given: dict[str, Any]
    arrays: Sequence[tuple[str, str, np.ndarray]] = ()
    note: str = ""
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def agrees(traced: Any, made: np.ndarray) -> bool:
    """Whether an array of the step is this one, up to the digits of its dtype."""
    if np.shape(traced) != made.shape:
        return False
    digits = 1e-3 if np.asarray(traced).dtype.itemsize >= 4 else 5e-2
    traced = wide(traced)
    there = np.isfinite(traced) & np.isfinite(made)
    size = max(np.abs(made[there]).max(initial=0.0), np.abs(traced[there]).max(initial=0.0))
    return bool((np.abs(traced - made)[there] <= digits * size).all())
