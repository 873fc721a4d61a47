"""Bounds on the error that rounding alone causes in a right gradient: derived, not tuned."""

import numpy as np

from fbp.verify.program._numbers import largest

# A comparison this close to a tie, relatively, may fall on either side.
AT_KINK = 1e-6
# Stands for a difference that is NaN or infinite.
_BOUNDLESS = 1e300


def lost_to_rounding(working: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference between two runs of one program; NaN and infinity count as 1e300."""
    return largest(np.nan_to_num(np.abs(working - exact), nan=_BOUNDLESS, posinf=_BOUNDLESS))


def algebra_allowed(
    eps: float, unit: float, scale: float, lost: float, usual: float = 0.0
) -> float:
    """The error that a rule in float64 may have against its reference.

    It is eps^(2/3) of the leaf's size, far above the rounding error of a stable sum and far below
    any term. For computations that lose more, 1000 times the error measured in the working dtype,
    scaled by the ratio of the rounding units, is added.

    Args:
      eps: the rounding unit of the run in float64.
      unit: that of the working dtype.
      scale: the largest element of the reference gradient.
      lost: the difference between the runs in the working dtype and in float64.
      usual: the largest element on ordinary input; where a gradient saturates, terms of about this
        size cancel.
    """
    allowed = eps ** (2 / 3) * scale + (1e3 * eps / unit * lost if eps < unit else 0.0)
    if lost > 0.1 * scale:
        # The working dtype has no digits left, so it does not show how much float64 lost.
        rest = max(1e-2 * scale, eps ** (2 / 3) * usual)
        return (allowed if lost < _BOUNDLESS / 2 else 0.0) + rest
    return allowed


def precision_allowed(unit: float, control: float, longest_sum: float) -> float:
    """The relative error that a rule in the working dtype may have against the float64 gradient.

    It is 16 times autodiff's error, plus the rounding error of an equivalent formula: 4 sqrt(n)
    units for the longest sum, of n terms, and 64 units, since exp(u) errs by |u| units (16 in a
    dtype so coarse that 64 units would leave no digit).
    """
    return 16 * control + unit * ((64 if unit < 1e-4 else 16) + 4 * longest_sum**0.5)
