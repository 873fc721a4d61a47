"""Inputs and cotangents a rule is tried on: ordinary ones, and the ones rules break at."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.verify._runs import Runs, is_float


class Probe(NamedTuple):
    """One run of both programs.

    Attributes:
      name: what is special about it.
      values: arrays for all leaves.
      dys: the cotangents.
      ordinary: whether its values are of the size and kind the function was given.
      extreme: whether its values are of quite another size.
      outside: whether it holds integers of another range than what was given.
    """

    name: str
    values: list[Any]
    dys: list[np.ndarray]
    ordinary: bool = False
    outside: bool = False
    extreme: bool = False


def probes(
    runs: Runs, rng: np.random.Generator, points: Sequence[float], cotangent: Any, fast: bool
) -> Iterator[Probe]:
    """What a rule is tried on, most telling first.

    Args:
      runs: what is run.
      rng: what is drawn from.
      points: constants that the function compares with.
      cotangent: the cotangents to begin with, or None to draw them.
      fast: whether to leave out all but the first few.
    """
    given = list(runs.subject.values)
    shapes = [a.shape for a in runs.out_avals]
    is_complex = [np.dtype(a.dtype).kind == "c" for a in runs.out_avals]

    def normal() -> list[np.ndarray]:
        return [_normal(rng, s, c) for s, c in zip(shapes, is_complex, strict=True)]

    yield Probe("as given", given, cotangent or normal(), True)
    near = _of_floats(runs, given, lambda a: _near(rng, a))
    yield Probe("near what was given", near, normal(), True)
    if not fast:
        floats = _of_floats(runs, given, lambda a: _shuffled(rng, a))
        mixed = _integers(runs, floats, rng, "shuffle") or floats
        yield Probe("shuffled", mixed, normal(), True)
    yield Probe("zero cotangent", near, [np.zeros(s) for s in shapes])
    yield Probe("one-hot cotangent", near, [_one_hot(rng, s) for s in shapes])
    if len(shapes) > 1:
        for i in range(len(shapes)):
            one = [d if i == j else np.zeros_like(d) for j, d in enumerate(normal())]
            yield Probe(f"cotangent of output {i} alone", near, one)
    rows = _of_floats(runs, given, lambda a: _mosaic(rng, a))
    yield Probe("rows zero, constant, large and small", rows, normal(), extreme=True)
    if points:
        at = _of_floats(runs, given, lambda a: _at_points(rng, a, points))
        yield Probe("at and around its thresholds", at, normal())
    yield Probe("rounded to ties", _of_floats(runs, given, _ties), normal())
    wide = _of_floats(runs, given, lambda a: _spread(rng, a, 20.0))
    yield Probe("large", wide, normal(), extreme=True)
    if any(not is_float(leaf.value) for leaf in runs.subject.leaves):
        for how in ("repeat", "first row false", "none true", "all true", "-1"):
            changed = _integers(runs, near, rng, how)
            if changed is not None:
                outside = how == "-1"
                yield Probe(f"integers and masks: {how}", changed, normal(), outside=outside)
    if fast:
        return
    for i in runs.diff:
        zeroed = list(near)
        zeroed[i] = _of_floats(runs, given, np.zeros_like)[i]
        yield Probe(f"{runs.subject.leaves[i].path} = 0", zeroed, normal())
    yield Probe("all zero", _of_floats(runs, given, np.zeros_like), normal())
    for name, change in (
        ("constant rows", _constant_rows),
        ("tiny variance", lambda a: _tiny_variance(rng, a)),
        ("very large", lambda a: _spread(rng, a, 250.0)),
        ("very small", lambda a: 1e-4 * np.asarray(a)),
    ):
        yield Probe(name, _of_floats(runs, given, change), normal(), extreme=True)
    yield Probe("masked cotangent", near, [_masked(rng, s) for s in shapes])


def _of_floats(runs: Runs, values: Sequence[Any], change: Callable[[Any], Any]) -> list[Any]:
    changed = list(values)
    for i in runs.diff:
        value = np.asarray(values[i])
        wide = value if value.dtype.kind == "c" else value.astype(np.float64)
        # What is drawn is exact in the dtype that is used, so that all runs see the same numbers.
        changed[i] = _of_one_sign(wide, np.asarray(change(wide))).astype(runs.dtypes[i])
    return changed


def _of_one_sign(given: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """What was given all positive stays so: a variance, a temperature, a probability."""
    if given.dtype.kind == "c" or not given.size:
        return changed
    for sign in (1, -1):
        least = (sign * given).min()
        if least > 0:
            return np.where(sign * changed <= 0, sign * 0.01 * least, changed)
        if least == 0 and given.any():
            return np.where(sign * changed < 0, 0, changed)
    return changed


def _normal(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    real = rng.normal(size=shape).astype(np.float32).astype(np.float64)
    return real + 1j * rng.normal(size=shape).astype(np.float32) if is_complex else real


def _size(a: np.ndarray) -> float:
    return float(np.sqrt((np.abs(a) ** 2).mean())) if a.size else 1.0


def _noise(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    return _normal(rng, a.shape, a.dtype.kind == "c")


def _near(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Other values of the same kind: positive stays positive, a distribution stays one."""
    if a.dtype.kind != "c" and a.any() and (a >= 0).all():
        moved = a * np.exp(0.2 * rng.normal(size=a.shape))
        if a.ndim and np.allclose(a.sum(-1), 1, atol=1e-5):
            return moved / moved.sum(-1, keepdims=True)
        return np.minimum(moved, 0.5 * (1 + a)) if (a <= 1).all() else moved
    return a + 0.3 * (_size(a) or 1.0) * _noise(rng, a)


def _shuffled(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    return rng.permutation(a.ravel()).reshape(a.shape)


def _mosaic(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Rows (along the first axis, or elements) of different kinds beside each other."""
    out = np.array(_near(rng, a))
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


def _at_points(rng: np.random.Generator, a: np.ndarray, points: Sequence[float]) -> np.ndarray:
    if a.dtype.kind == "c":
        return a
    steps = rng.choice([0.0, 1e-3, -1e-3, 0.5, -0.5, 2.0, -2.0], a.shape)
    at = rng.choice(np.asarray([*points, *(-p for p in points)]), a.shape) + steps
    return np.where(rng.random(a.shape) < 0.6, at, _near(rng, a))


def _ties(a: np.ndarray) -> np.ndarray:
    step = 0.5 * (_size(a) or 1.0)
    return np.round(a / step) * step


def _spread(rng: np.random.Generator, a: np.ndarray, factor: float) -> np.ndarray:
    """Values of one sign stay of that sign; distributions stay near 0 and 1."""
    near = _near(rng, a)
    return near * factor * rng.uniform(0.2, 1.0, a.shape) / (_size(a) or 1.0)


def _constant_rows(a: np.ndarray) -> np.ndarray:
    return np.broadcast_to(a[..., :1], a.shape).copy() if a.ndim else a


def _tiny_variance(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    return _constant_rows(a) + 1e-3 * (_size(a) or 1.0) * _noise(rng, a)


def _one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dy = np.zeros(shape)
    if dy.size:
        dy.flat[rng.integers(dy.size)] = 1.0
    return dy


def _masked(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return _normal(rng, shape, False) * (rng.random(shape) < 0.5)


def _integers(
    runs: Runs, values: Sequence[Any], rng: np.random.Generator, how: str
) -> list[Any] | None:
    """Other integers of the range that was given, other masks; None where nothing changes."""
    changed, any_change = list(values), how == "shuffle"
    for i, leaf in enumerate(runs.subject.leaves):
        value = leaf.value
        if is_float(value) or jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            continue
        a = np.asarray(value)
        if not a.size:
            continue
        new = _changed(a, rng, how)
        any_change |= new is not a
        changed[i] = new
    return changed if any_change else None


def _changed(a: np.ndarray, rng: np.random.Generator, how: str) -> np.ndarray:
    if how == "shuffle" and a.dtype.kind != "u":
        return _shuffled(rng, a) if a.size > 1 else a
    if a.dtype == bool:
        if how == "first row false" and a.ndim:
            new = a.copy()
            new[(0,) * max(1, a.ndim - 1)] = False
            return new
        if how in ("none true", "all true"):
            return np.full_like(a, how == "all true")
        return a
    if a.dtype.kind == "u":
        return a  # the bits of a key
    if how == "repeat" and a.size > 1:
        return rng.choice(a.ravel()[: max(1, a.size // 3)], a.shape)
    if how == "-1" and a.min() >= 0:
        new = a.copy()
        new.flat[rng.integers(a.size)] = -1
        return new
    # A label that stands for "none": what is negative, where there is one.
    if how == "none true" and (a < 0).any():
        return np.full_like(a, a.min())
    if how == "all true" and (a < 0).any() and (a >= 0).any():
        return np.where(a < 0, a.max(), a)
    return a
