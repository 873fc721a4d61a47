"""Draws values to try a rule on from the given ones: values of the same kind, and edge cases."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def normal(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    real = rng.normal(size=shape).astype(np.float32).astype(np.float64)
    return real + 1j * rng.normal(size=shape).astype(np.float32) if is_complex else real


def _size(a: np.ndarray) -> float:
    return float(np.sqrt((np.abs(a) ** 2).mean())) if a.size else 1.0


def _noise(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    return normal(rng, a.shape, a.dtype.kind == "c")


def one_sign(a: np.ndarray) -> int:
    """1 if all elements are above 0, -1 if all are below 0, else 0."""
    if a.dtype.kind == "c" or not a.size:
        return 0
    return int((a > 0).all()) - int((a < 0).all())


def near(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Other values of the same kind: positive ones stay positive, a distribution stays one."""
    if a.dtype.kind != "c" and a.any() and (a >= 0).all():
        moved = a * np.exp(0.2 * rng.normal(size=a.shape))
        if is_distribution(a):
            return moved / moved.sum(-1, keepdims=True)
        return np.minimum(moved, 0.5 * (1 + a)) if (a <= 1).all() else moved
    return a + 0.3 * (_size(a) or 1.0) * _noise(rng, a)


def is_distribution(a: np.ndarray) -> bool:
    """Whether the rows of an array are shares: 0 or more, with the sum 1."""
    return bool(a.ndim and (a >= 0).all() and np.allclose(a.sum(-1), 1, atol=1e-5))


def shuffled(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """The same elements in another order; those of a distribution within their row."""
    if a.dtype.kind == "f" and is_distribution(a):
        return rng.permuted(a, axis=-1)
    return rng.permutation(a.ravel()).reshape(a.shape)


def mosaic(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Rows along the last axis (elements, if 1-D), some zero, constant, large, small, ..."""
    if not a.size:
        return a
    out = np.array(near(rng, a))
    rows = out.reshape(-1, a.shape[-1]) if a.ndim > 1 else out.reshape(-1, 1)
    kinds: list[Callable[[np.ndarray], Any]] = [
        lambda r: 0 * r,
        lambda r: 0 * r + r[0],
        lambda r: 30 * r,
        lambda r: 1e-3 * r,
        lambda r: np.round(r),
        lambda r: np.sort(r),
    ]
    order = rng.permutation(len(rows))
    for i, row in enumerate(order[: max(1, len(rows) - 1)]):
        if i % 2 == 0:
            rows[row] = kinds[(i // 2) % len(kinds)](rows[row])
    return rows.reshape(a.shape)


def at_points(rng: np.random.Generator, a: np.ndarray, points: Sequence[float]) -> np.ndarray:
    if a.dtype.kind == "c":
        return a
    steps = rng.choice([0.0, 1e-3, -1e-3, 0.5, -0.5, 2.0, -2.0], a.shape)
    at = rng.choice(np.asarray([*points, *(-p for p in points)]), a.shape) + steps
    return np.where(rng.random(a.shape) < 0.6, at, near(rng, a))


def ties(a: np.ndarray) -> np.ndarray:
    step = 0.5 * (_size(a) or 1.0)
    return np.round(a / step) * step


def spread(rng: np.random.Generator, a: np.ndarray, factor: float) -> np.ndarray:
    """Values near these, scaled to a size of `factor` times random factors from 0.2 to 1."""
    moved = near(rng, a)
    return moved * factor * rng.uniform(0.2, 1.0, a.shape) / (_size(a) or 1.0)


def some_zero(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Values near these; if all have one sign, some become 0."""
    sign = one_sign(a)
    if not sign:
        return near(rng, a)
    return np.where(rng.random(a.shape) < 0.3, 0.0, sign * near(rng, sign * a))


def constant_rows(a: np.ndarray) -> np.ndarray:
    return np.broadcast_to(a[..., :1], a.shape).copy() if a.ndim else a


def tiny_variance(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    return constant_rows(a) + 1e-3 * (_size(a) or 1.0) * _noise(rng, a)


def one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dy = np.zeros(shape)
    if dy.size:
        dy.flat[rng.integers(dy.size)] = 1.0
    return dy


def masked(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return normal(rng, shape, False) * (rng.random(shape) < 0.5)


def with_integer(n: int, where: str, a: np.ndarray) -> np.ndarray:
    """These integers with some replaced by n; the same array if n is above their range.

    A negative n is always used, as a marker. So is any n for a scalar: a count and not an index.
    """
    if a.dtype.kind != "i" or (n > a.max(initial=-1) and a.ndim):
        return a
    new = a.copy()
    new.flat[[a.size // 2] if where == "middle" else [0, -1]] = n
    return new


def changed(rng: np.random.Generator, how: str, a: np.ndarray) -> np.ndarray:
    if how == "shuffle" and a.dtype.kind != "u":
        return shuffled(rng, a) if a.size > 1 else a
    if a.dtype == bool:
        if how == "any" and a.size > 1:
            return rng.random(a.shape) < 0.6
        if how == "first row false" and a.ndim:
            new = a.copy()
            new[(0,) * max(1, a.ndim - 1)] = False
            return new
        if how in ("none true", "all true"):
            return np.full_like(a, how == "all true")
        return a
    if a.dtype.kind == "u":
        return a  # the bits of a key
    if how == "any" and a.min() >= 0 and a.max() > 0:
        return rng.integers(0, a.max() + 1, a.shape).astype(a.dtype)
    if how == "repeat" and a.size > 1:
        return rng.choice(a.ravel()[: max(1, a.size // 3)], a.shape)
    if how == "-1" and a.min() >= 0:
        new = a.copy()
        new.flat[rng.integers(a.size)] = -1
        return new
    # Negative integers, if there are any, are labels that stand for "none".
    if how == "none true" and (a < 0).any():
        return np.full_like(a, a.min())
    if how == "all true" and (a < 0).any() and (a >= 0).any():
        return np.where(a < 0, a.max(), a)
    return a
