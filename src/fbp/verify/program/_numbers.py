"""The largest element of an array, and the rounding unit of float64."""

from typing import Any

import numpy as np

EPS64 = float(np.finfo(np.float64).eps)


def largest(a: Any) -> float:
    """max|a|; infinite if an element is NaN."""
    a = np.abs(np.asarray(a))
    top = float(a.max(initial=0.0))
    return top if top == top else float("inf")
