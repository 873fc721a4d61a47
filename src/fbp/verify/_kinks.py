"""Where a function is not smooth, and what is right there.

At a kink the gradient is a choice. The chain rule allows every element of the Clarke
subdifferential: the convex hull of the limits of the gradient at smooth points nearby.

Source: Clarke, "Optimization and Nonsmooth Analysis", 1983, section 2.5.
"""

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fbp.verify._dtypes import is_complex, is_float
from fbp.verify._margins import COMPARED
from fbp.verify._program import dtype_of, equations


def thresholds(program: ClosedJaxpr) -> list[float]:
    """The constants a program compares with: where its kinks may be."""
    found: set[float] = set()
    for eqn in equations(program.jaxpr):
        if eqn.primitive.name not in (*COMPARED, "select_n", "pow", "integer_pow"):
            continue
        for atom in eqn.invars:
            if isinstance(atom, Literal) and jnp.issubdtype(dtype_of(atom), jnp.floating):
                value = np.asarray(atom.val, np.float64)
                if value.ndim == 0 and np.isfinite(value) and abs(value) < 1e4:
                    found.add(float(value))
    for const in getattr(program, "consts", ()):
        is_number = getattr(const, "ndim", 1) == 0 and is_float(const) and not is_complex(const)
        if is_number and abs(float(const)) < 1e4:
            found.add(float(const))
    return sorted(found)[:8]


def special_integers(program: ClosedJaxpr) -> list[int]:
    """The integers a program asks for by name: a padding id, a label to ignore."""
    found: dict[int, None] = {}
    for eqn in equations(program.jaxpr):
        name = eqn.primitive.name
        for atom in eqn.invars if name in ("eq", "ne", "lt", "le", "gt", "ge") else ():
            if not isinstance(atom, Literal) or not jnp.issubdtype(dtype_of(atom), jnp.integer):
                continue
            if np.ndim(atom.val) == 0:
                n = int(atom.val)
                # Below 0 only what is asked for itself: `i < 0` is how jax wraps an index.
                here = [n] if name in ("eq", "ne") else [m for m in (n, n + 1) if m >= 0]
                found.update(dict.fromkeys(here))
    return list(found)[:6]


def in_hull(point: np.ndarray, limits: np.ndarray, tolerance: float) -> bool:
    """Whether a vector is a convex combination of others, to a relative tolerance.

    Args:
      point: (n,).
      limits: (k, n).
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
