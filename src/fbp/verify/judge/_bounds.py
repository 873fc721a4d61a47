"""How far rounding alone may take a right gradient: derived, never tuned to a case."""

import numpy as np

from fbp.verify.program._numbers import largest

# A comparison this near to a tie, relatively, may fall either way.
AT_KINK = 1e-6
# In place of a loss that is not a number.
_BOUNDLESS = 1e300


def lost_to_rounding(working: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference between two runs of one program, infinity and NaN as very large."""
    return largest(np.nan_to_num(np.abs(working - exact), nan=_BOUNDLESS, posinf=_BOUNDLESS))


def algebra_allowed(
    eps: float, unit: float, scale: float, lost: float, usual: float = 0.0
) -> float:
    """How far a rule in float64 may be from its reference.

    eps^(2/3) of the leaf's size, far above what a stable sum loses and far below any term. And
    where a computation loses more, what it was seen to lose in the working dtype, scaled by the
    ratio of the rounding units, a thousandfold.

    Args:
      eps: the rounding unit of the run in float64.
      unit: that of the working dtype.
      scale: the largest element of the reference gradient.
      lost: how far the run in the working dtype is from the one in float64.
      usual: the largest element on ordinary input: what a saturated gradient is the rest of.
    """
    allowed = eps ** (2 / 3) * scale + (1e3 * eps / unit * lost if eps < unit else 0.0)
    if lost > 0.1 * scale:
        # Nothing is left in the working dtype: how much float64 lost cannot be told from it.
        rest = max(1e-2 * scale, eps ** (2 / 3) * usual)
        return (allowed if lost < _BOUNDLESS / 2 else 0.0) + rest
    return allowed


def precision_allowed(unit: float, control: float, longest_sum: float) -> float:
    """How far a rule in the working dtype may be from the float64 gradient, relatively.

    16 times what autodiff errs, and the rounding of another formula for the same: 4 sqrt(n) units
    for the longest sum, of n terms; and 64 units, as exp(u) errs by |u| of them (16 in a dtype of
    so few digits that 64 would be no digit at all).
    """
    return 16 * control + unit * ((64 if unit < 1e-4 else 16) + 4 * longest_sum**0.5)
