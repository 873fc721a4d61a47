"""Bounds on the error that rounding alone causes in a right gradient.

A result of n roundings is off by n eps at the most, relative to the largest number on the way, and
by about sqrt(n) eps as a rule, since roundings go either way. A wrong term is off by its own size.
The bounds lie between the two, and no case has a bound of its own.

* In float64 (`algebra_allowed`) the gap is wide. eps^(2/3) = 4e-11 is what n = eps^(-1/3) = 160,000
  roundings can add up to at the worst; a term that is missing or has a wrong factor moves a
  gradient by many orders of magnitude more.
* A computation that cancels loses more. How much is measured: its error in the working dtype is
  proportional to that dtype's unit, so in float64 it loses eps / unit times as much. The factor of
  1000 allows for the luck of two different sets of roundings.
* In the working dtype (`precision_allowed`) autodiff of the same function is the measure: what it
  loses the function makes anyone lose. Another formula for the same gradient has other roundings:
  4 standard deviations of a sum of n terms are 4 sqrt(n) units; and exp(u), for any u up to 64 in
  size, errs by |u| units, because an error of one unit in u is one of |u| units in exp(u).
"""

import numpy as np

from fbp.verify.program._numbers import largest

# A comparison this close to a tie, relatively, may fall on either side.
AT_KINK = 1e-6
# Stands for a difference that is NaN or infinite.
_BOUNDLESS = 1e300


def lost_to_rounding(working: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference between two runs of one program; NaN and infinity count as 1e300."""
    return largest(np.nan_to_num(np.abs(working - exact), nan=_BOUNDLESS, posinf=_BOUNDLESS))


def rounding_of_cancelling(eps: float, unit: float, lost: float) -> float:
    """What a computation that cancels may lose with the unit eps: see above.

    It is 0 where that is not known, because the working dtype overflows or is no coarser.

    Args:
      eps: the rounding unit of the run in float64.
      unit: that of the working dtype.
      lost: the difference between the runs in the working dtype and in float64.
    """
    return 1e3 * eps / unit * lost if eps < unit and lost < _BOUNDLESS / 2 else 0.0


def algebra_allowed(
    eps: float, unit: float, scale: float, lost: float, usual: float = 0.0
) -> float:
    """The error that a rule in float64 may have against its reference.

    eps^(2/3) of the leaf's size, plus 1000 times the error measured in the working dtype, scaled by
    the ratio of the rounding units: see above.

    Args:
      eps: the rounding unit of the run in float64.
      unit: that of the working dtype.
      scale: the largest element of the reference gradient.
      lost: the difference between the runs in the working dtype and in float64.
      usual: the largest element on ordinary input; where a gradient saturates, terms of about this
        size cancel.
    """
    # Where not all of it ran in float64, the working dtype does not show how much was lost.
    size = max(scale, usual) if eps >= unit else scale
    allowed = eps ** (2 / 3) * size + rounding_of_cancelling(eps, unit, lost)
    if lost > 0.1 * scale:
        # The working dtype has no digits left, so it does not show how much float64 lost.
        rest = max(1e-2 * scale, eps ** (2 / 3) * usual)
        return (allowed if lost < _BOUNDLESS / 2 else 0.0) + rest
    return allowed


def absolute_allowed(unit: float) -> float:
    """The relative error in the working dtype that needs no remark, whatever autodiff's is.

    A third of the digits, as in float64: unit^(2/3), the most that unit^(-1/3) roundings add up to;
    and never less than 64 units, for an exponential (16 in a dtype so coarse that 64 units would
    leave no digit): see above.
    """
    return max(unit ** (2 / 3), unit * (64 if unit < 1e-4 else 16))


def precision_allowed(unit: float, control: float, longest_sum: float) -> float:
    """The relative error that a rule in the working dtype may have against the float64 gradient.

    16 times autodiff's error, plus the rounding error of another formula for the same: 4 sqrt(n)
    units for the longest sum, of n terms, and 64 units for an exponential (16 in a dtype so coarse
    that 64 units would leave no digit): see above.
    """
    return 16 * control + unit * ((64 if unit < 1e-4 else 16) + 4 * longest_sum**0.5)
