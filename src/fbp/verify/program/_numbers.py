"""How large arrays are, and how finely float64 counts."""

from typing import Any

import numpy as np

EPS64 = float(np.finfo(np.float64).eps)


def largest(a: Any) -> float:
    """max|a|; infinite where something is NaN."""
    a = np.abs(np.asarray(a))
    top = float(a.max(initial=0.0))
    return top if top == top else float("inf")
