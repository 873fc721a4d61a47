"""Which gradients are right where a function is not smooth.

At a kink the gradient is not unique. Every element of the Clarke subdifferential is accepted: the
convex hull of the limits of the gradient at smooth points nearby.

Source: Clarke, "Optimization and Nonsmooth Analysis", 1983, section 2.5.
"""

import numpy as np


def in_hull(point: np.ndarray, limits: np.ndarray, tolerance: float) -> bool:
    """Whether a vector is a convex combination of others, to a relative tolerance.

    Args:
      point: the vector, (n,).
      limits: the others, (k, n).
      tolerance: relative to the largest element of all.
    """
    from scipy.optimize import nnls

    if np.iscomplexobj(limits) or np.iscomplexobj(point):
        point = np.concatenate([point.real, point.imag])
        limits = np.concatenate([limits.real, limits.imag], 1)
    scale = max(np.abs(limits).max(initial=0.0), np.abs(point).max(initial=0.0))
    if scale == 0:
        return True
    if not (np.isfinite(point).all() and np.isfinite(limits).all()):
        return False
    # Only elements that differ among the limits leave a choice; the rest must agree.
    low, high = limits.min(0), limits.max(0)
    if ((point < low - tolerance * scale) | (point > high + tolerance * scale)).any():
        return False
    free = high - low > tolerance * scale
    if not free.any():
        return True
    weight = 1e3  # of the row that makes the weights sum to one
    system = np.vstack([limits[:, free].T / scale, np.full(len(limits), weight)])
    _, residual = nnls(system, np.append(point[free] / scale, weight), maxiter=50 * len(limits))
    return bool(residual <= tolerance * np.sqrt(free.sum()) * 10)
