"""Sizes of arrays, rounding units, and the digits that approximations keep."""

from typing import Any

import numpy as np

EPS32 = float(np.finfo(np.float32).eps)
EPS64 = float(np.finfo(np.float64).eps)


def largest(a: Any) -> float:
    """max|a|; infinite if an element is NaN."""
    a = np.abs(np.asarray(a))
    top = float(a.max(initial=0.0))
    return top if top == top else float("inf")


def leeway_of_approximations(unit: float, iterates: bool) -> float:
    """The relative error of a rule that approximates, or whose function does.

    The derivative of an approximation is not the approximation of the derivative. 1e-7 is float32's
    rounding unit, which approximations are made for. A loop that stops at a tolerance, as in an ODE
    solver, errs by more than that: eps^(2/3) of float32, if the function is used in no wider dtype.
    """
    return EPS32 ** (2 / 3) if iterates and unit >= EPS32 else 1e-7
