"""Patterns of wrong gradients, each recognised by comparing the gradient with the reference."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fbp.verify.diagnose import _factors, _residuals, _slopes, _where
from fbp.verify.diagnose._scene import Scene, close
from fbp.verify.report._card import Hint


def patterns(scene: Scene) -> Iterator[tuple[float, Hint]]:
    """Every pattern that fits, with its rank; the lower the rank, the better the explanation."""
    if not scene.got.any():
        yield 0, Hint(scene.leaf, "zero", "all zero: its term is missing altogether")
        return
    for rank, look in enumerate(_LOOKS):
        for kind, text in look(scene) or ():
            first = _LATER.get(look, _RANK.get(kind, 2))
            yield first + rank * 1e-3, Hint(scene.leaf, kind, text)


# `_diagnose` has the ranks of the hints that are found by running the reference.
_RANK = {
    **{"zero": 0, "sign": 0, "factor": 0, "swap": 0, "transpose": 0, "roll": 0, "mask": 1},
    **{"constant": 1.6, "slope": 2, "term": 2, "subset": 3, "row_scale": 3.5, "along": 4},
}


def _whole(s: Scene) -> Iterator[tuple[str, str]]:
    return _factors.whole(s.got, s.want, s.sizes)


def _permuted(s: Scene) -> Iterator[tuple[str, str]]:
    shape = s.want.shape
    for order in itertools.permutations(range(s.want.ndim)):
        if order == tuple(range(s.want.ndim)) or s.want.ndim > 4:
            continue
        if tuple(shape[i] for i in order) == shape and close(s.got, s.want.transpose(order)):
            yield "transpose", f"the reference transposed: axes {order}"
    for n in range(1, s.want.ndim + 1):
        for axes in itertools.combinations(range(s.want.ndim), n):
            if all(shape[a] > 1 for a in axes) and close(s.got, np.flip(s.want, axes)):
                yield "transpose", f"the reference flipped along axes {axes}"
                yield "term", f"drop: a rev (flip) along axes {axes} is missing, or one too many"


def _swapped(s: Scene) -> Iterator[tuple[str, str]]:
    for name, other in s.others.items():
        if close(s.got, other):
            yield "swap", f"it is the gradient of {name}: two gradients are swapped"
        elif close(s.got, -other):
            yield "swap", f"it is minus the gradient of {name}"
        elif other.shape == s.want.shape:
            for sign, says in ((1, "plus"), (-1, "minus")):
                if close(s.got - s.want, sign * other, np.abs(other).max(initial=0)):
                    yield "along", f"the reference {says} the gradient of {name}"
        elif other.size == s.want.size and close(s.got, other.reshape(s.want.shape)):
            yield "swap", f"it is the gradient of {name}, reshaped"


def _rolled(s: Scene) -> Iterator[tuple[str, str]]:
    for axis, n in enumerate(s.want.shape):
        for k in range(1, min(n, 9)):
            for by in (k, -k):
                if close(s.got, np.roll(s.want, by, axis)):
                    yield "roll", f"the reference rolled by {by} along axis {axis}"
                    return


def _rolled_inside(s: Scene) -> Iterator[tuple[str, str]]:
    long = [axis for axis, n in enumerate(s.want.shape) if n > 2]
    for axes in (*((a,) for a in long), *itertools.combinations(long, 2)):
        for shifts in itertools.product((1, -1, 2, -2), repeat=len(axes)):
            inner, outer = [slice(None)] * s.want.ndim, [slice(None)] * s.want.ndim
            for axis, k in zip(axes, shifts, strict=True):
                inner[axis] = slice(k, None) if k > 0 else slice(None, k)
                outer[axis] = slice(None, -k) if k > 0 else slice(-k, None)
            mine, right = s.got[tuple(inner)], s.want[tuple(outer)]
            if mine.size > 1 and close(mine, right):
                yield (
                    "roll",
                    f"the reference shifted by {shifts} along axes {axes}, but for the edges",
                )
                return


def _from_others(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is that of another leaf, summed or with its square transposed."""
    for name, other in s.others.items():
        for n in range(1, other.ndim + 1):
            for axes in itertools.combinations(range(other.ndim), n):
                if other.size > s.want.size and close(s.got, other.sum(axes)):
                    axis = f"axis {axes[0]}" if n == 1 else f"axes {axes}"
                    yield "term", f"it is the gradient of {name}, summed along {axis}"
                    return


def _half(s: Scene) -> Iterator[tuple[str, str]]:
    """A square gradient whose symmetric part is right."""
    if s.want.ndim < 2 or s.want.shape[-1] != s.want.shape[-2] or s.want.shape[-1] < 2:
        return
    got, want = s.got + s.got.swapaxes(-1, -2), s.want + s.want.swapaxes(-1, -2)
    if close(got, want):
        says = "its symmetric part is right: it is not symmetrised, or its transpose is missing"
        yield "transpose", says


def _outer(s: Scene) -> Iterator[tuple[str, str]]:
    """A matrix that is the outer product of two vectors of the scene."""
    if s.want.ndim != 2 or np.iscomplexobj(s.want):
        return
    vectors = {n: a for n, a in s.arrays.items() if a.ndim == 1 and n != "1"}
    for (a, u), (b, v) in itertools.product(vectors.items(), repeat=2):
        product = np.outer(u, v) if (u.size, v.size) == s.want.shape else None
        for sign, says in ((1, ""), (-1, "minus ")):
            if product is not None and close(s.got, sign * product):
                yield "term", f"another operand: it is {says}the outer product of {a} and {b}"
                return


_LOOKS = (
    *(_whole, _factors.factors, _permuted, _swapped, _rolled),
    *(_where.subset, _where.mask, _where.rows_of_integers),
    *(_residuals.spread, _residuals.constant, _residuals.times),
    *(_slopes.known, _slopes.unknown, _slopes.gradient_of_another, _half, _outer, _from_others),
    *(_residuals.contraction, _residuals.row_scale, _residuals.along),
    *(_rolled_inside, _factors.unnamed, _where.scattered),
)
# Looks whose explanations come later, or earlier, than those of their kind.
_LATER: dict[Any, float] = {
    _factors.factors: 1.6,
    _factors.unnamed: 4.5,
    _where.scattered: 4.6,
    _slopes.unknown: 2.4,
    _half: 1.2,
    _rolled_inside: 3.4,
}
