"""The simplest input found on which a gradient is still wrong."""

import dataclasses
from typing import Any

import numpy as np

from fbp.verify.program._numbers import largest
from fbp.verify.rule._runs import Runs


def _is_wrong(runs: Runs, values: list[Any], dys: list[Any], k: int) -> bool:
    if runs.subject.domain is not None and not runs.subject.domain.has(values, 1e-6):
        return False
    pair = runs.exact(values, dys)
    if not pair.grads or not all(np.isfinite(o).all() for o in pair.out):
        return False
    got, want = pair.rule_grads[k], pair.grads[k]
    if not np.isfinite(want).all():
        return False
    return not largest(got - want) <= 1e-4 * largest(want) and pair.margin > 1e-6


def cut(runs: Runs, values: list[Any], dys: list[Any], k: int) -> tuple[Runs, list[Any], list[Any]]:
    """The same with shorter axes, if the function takes them and its gradient stays wrong."""
    lengths = {n for v in values for n in np.shape(v)}
    if runs.own.startswith("the reference"):
        return runs, values, dys  # its program is for these shapes
    for most in (2, 3):
        if not lengths or max(lengths) <= most:
            break
        shorter = [v[tuple(slice(0, most) for _ in np.shape(v))] for v in values]
        leaves = tuple(
            dataclasses.replace(leaf, value=v)
            for leaf, v in zip(runs.subject.leaves, shorter, strict=True)
        )
        subject = dataclasses.replace(runs.subject, leaves=leaves, identity=None)
        try:
            small = Runs(subject, None)
            cut = [np.asarray(_crop(d, a.shape)) for d, a in zip(dys, small.out_avals, strict=True)]
            if _is_wrong(small, shorter, cut, k):
                return small, shorter, cut
        except Exception:
            continue  # these shapes do not fit together
    return runs, values, dys


def _crop(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if a.ndim != len(shape):
        raise ValueError("another rank")
    return a[tuple(slice(0, n) for n in shape)]


def plainer(runs: Runs, values: list[Any], dys: list[Any], k: int) -> tuple[list[Any], list[Any]]:
    """The same with a one-hot cotangent, and arguments of zeros, ones or one decimal."""
    if not _is_wrong(runs, values, dys, k):
        return values, dys
    for n, dy in enumerate(dys):
        for place in np.argsort(-np.abs(dy).ravel())[:4]:
            one = np.zeros_like(dy)
            one.flat[place] = 1.0
            tried = [one if m == n else 0 * d for m, d in enumerate(dys)]
            if _is_wrong(runs, values, tried, k):
                dys = tried
                break
        else:
            continue
        break
    for i in runs.diff:
        value = np.asarray(values[i])
        for plain in (np.zeros_like(value), np.ones_like(value), _rounded(value)):
            tried = [plain if j == i else v for j, v in enumerate(values)]
            if _is_wrong(runs, tried, dys, k):
                values = tried
                break
    return values, dys


def _rounded(a: np.ndarray) -> np.ndarray:
    wide = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    return np.round(wide, 1).astype(a.dtype)
