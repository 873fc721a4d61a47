"""Writes a wrong gradient, or its residual, in terms of the arrays of the scene.

The residual is the gradient minus the reference.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fbp.verify.diagnose._scene import Scene, close


def constant(s: Scene) -> Iterator[tuple[str, str]]:
    off = s.got - s.want
    size = np.abs(off).max()
    for n in range(1, off.ndim + 1):
        for axes in itertools.combinations(range(off.ndim), n):
            if any(off.shape[a] < 2 for a in axes):
                continue
            if np.ptp(off, axis=axes).max() <= 1e-8 * size:
                along = " and ".join(map(str, axes))
                yield (
                    "constant",
                    f"residual constant along axis {along}: a mean or sum term is missing",
                )
                return


def spread(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is the mean or the sum of the reference along an axis, broadcast back."""
    for axis, n in enumerate(s.want.shape):
        if n < 2:
            continue
        mean = s.want.mean(axis, keepdims=True)
        for says, value in (("mean", mean), ("sum", n * mean)):
            if close(s.got, np.broadcast_to(value, s.want.shape)):
                yield "constant", f"the {says} of the reference along axis {axis}, for all"


def along(s: Scene) -> Iterator[tuple[str, str]]:
    """A residual that is a multiple of another array, row by row, or a gradient that is one."""
    off = s.got - s.want
    for name, v in s.arrays.items():
        if v.ndim and v.shape == off.shape[off.ndim - v.ndim :]:
            v = np.broadcast_to(v, off.shape)
        if v.shape != off.shape:
            continue
        for axes in (tuple(range(off.ndim)), *((a,) for a in range(off.ndim))):
            if _is_along(off, v, axes):
                along = "" if len(axes) == off.ndim else f" along axis {axes[0]}"
                yield (
                    "along",
                    f"residual along {name}{along}: a projection or term on {name} is off",
                )
                break
        else:
            if v.any() and _is_along(s.got, v, tuple(range(off.ndim))):
                yield "along", f"it is along {name} itself"


def contraction(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is a sum of products of two arrays of the scene: an operand is wrong."""
    names = [n for n, a in s.arrays.items() if a.ndim >= max(1, s.want.ndim) and a.size > 1]
    if np.iscomplexobj(s.want) or len(names) > 24:
        names = names[:24]
    for a, b in itertools.combinations_with_replacement(names, 2):
        u, v = s.arrays[a], s.arrays[b]
        if u.shape == v.shape and s.want.ndim < u.ndim:
            lead = u.ndim - s.want.ndim
            if u.shape[lead:] == s.want.shape:
                total = (u * v).sum(tuple(range(lead)))
                if close(s.got, total):
                    yield (
                        "term",
                        f"it is the sum of {a} times {b}: another operand, or a factor dropped",
                    )
                    return
        if s.want.ndim == 2 and u.ndim >= 2 and v.ndim >= 2 and u.shape[:-1] == v.shape[:-1]:
            for p, q, m, n in ((u, v, a, b), (v, u, b, a)):
                if (p.shape[-1], q.shape[-1]) == s.want.shape:
                    product = p.reshape(-1, p.shape[-1]).T @ q.reshape(-1, q.shape[-1])
                    if close(s.got, product):
                        yield "term", f"another operand: it is ({m})^T @ ({n})"
                        return
    for a, b in itertools.permutations(names, 2):
        u, v = s.arrays[a], s.arrays[b]
        if v.ndim != 2 or u.ndim < 2:
            continue
        for w, how in ((v, b), (v.T, f"({b})^T")):
            fits = u.shape[-1] == w.shape[0] and (*u.shape[:-1], w.shape[1]) == s.want.shape
            if fits and close(s.got, u @ w):
                yield "term", f"another operand: it is ({a}) @ {how}, a dot_general transposed"
                return


def _is_along(off: np.ndarray, v: np.ndarray, axes: tuple[int, ...], least: int = 3) -> bool:
    length = np.prod([off.shape[a] for a in axes])
    if length < least or not off.any():
        return False
    square = (v * np.conj(v)).sum(axes, keepdims=True).real
    share = (off * np.conj(v)).sum(axes, keepdims=True) / np.where(square > 0, square, 1)
    return close(share * v, off, np.abs(off).max())


def row_scale(s: Scene) -> Iterator[tuple[str, str]]:
    for axis in range(s.want.ndim):
        if _is_along(s.got, s.want, (axis,), 2) and s.want.size >= 6:
            yield "row_scale", f"the reference times one factor for each row along axis {axis}"
            return
    for axis in range(s.want.ndim):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        if others and _is_along(s.got, s.want, others):
            yield "row_scale", f"the reference times one factor for each index of axis {axis}"
            return


_OF_ONE: dict[str, Callable[[np.ndarray], Any]] = {
    "{}": lambda v: v,
    "1 / {}": lambda v: 1 / v,
    "{}^2": lambda v: v**2,
    "1 / {}^2": lambda v: 1 / v**2,
    "sqrt({})": lambda v: np.sqrt(np.abs(v)),
    "{0} (1 - {0})": lambda v: v * (1 - v),
    "1 - {}": lambda v: 1 - v,
    "1 - {}^2": lambda v: 1 - v**2,
    "exp({})": np.exp,
    "log({})": lambda v: np.log(np.abs(v)),
}


def times(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is the reference, or the cotangent, times a function of another array."""
    bases = [("row_scale", "the reference", s.want)]
    if "dy" in s.arrays and s.arrays["dy"].shape == s.want.shape:
        bases.append(("slope", "dy", s.arrays["dy"]))
    for name, v in s.arrays.items():
        if v.shape != s.want.shape or np.iscomplexobj(v) or name.startswith(("1", "dy")):
            continue
        for written, f in _OF_ONE.items():
            with np.errstate(all="ignore"):
                factor = f(v)
            if not np.isfinite(factor).all() or np.ptp(factor) == 0:
                continue
            for kind, says, base in bases:
                if close(s.got, base * factor):
                    yield kind, f"it is {says} times {written.format(name)}, a factor for each"
                    return
