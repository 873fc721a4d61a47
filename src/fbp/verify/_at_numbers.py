"""A layer's rule at given numbers, beside autodiff: its own rule, not those of layers inside it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._contract import is_float
from fbp._custom_vjp import layer_function
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._turn import value_and_grad_of, value_of
from fbp.verify.judge._measure import leaf_checks
from fbp.verify.program._wide import narrow_dtypes


@dataclasses.dataclass(frozen=True)
class AtNumbers:
    """How far a rule is from autodiff at these numbers.

    Attributes:
      ok: whether rounding explains the distance, as `fbp.cross_check` judges it.
      units: the largest distance from autodiff in float64, in units of rounding: of the dtype's eps
        times the largest element of the gradient's leaf. From autodiff in the dtype, where that is
        nearer and as far from float64.
    """

    ok: bool
    units: float


class _NotWider(Exception):
    """What cannot be computed in float64."""


Judge = Callable[..., AtNumbers]


def judge_of_rule(layer: Layer, inside: Callable[[Callable[[Layer], Layer]], Layer]) -> Judge:
    """Returns `judge(gradient, key, params, x, dy)`, of the (dparams, dx) that a layer's rule gave.

    Args:
      layer: the layer.
      inside: `inside(f)` is the layer with f of each layer in its place. The reference is autodiff
        of the layer in which each of those has the derivative that its own rule gives: what it
        differs by is this layer's own.
    """
    reference = inside(Ruled)

    def rule(key: Key, params: Params, x: PyTree, dy: PyTree) -> PyTree:
        _, res = layer.forward(params, x, key)
        return layer.backward(params, x, res, dy)

    def auto(key: Key, params: Params, x: PyTree, dy: PyTree) -> PyTree:
        y, pull = jax.vjp(lambda p, x: reference.forward(p, x, key)[0], params, x)
        return pull(_cotangent(dy, y))

    return _judge(rule, auto)


def judge_of_loss(loss: Loss) -> Judge:
    """Returns `judge(gradient, key, params, y, target)`, of (dparams, dy)."""

    def rule(key: Key, params: Params, y: PyTree, target: PyTree) -> PyTree:
        _, dparams, dy = value_and_grad_of(loss, params, y, target, key)
        return dparams, dy

    def auto(key: Key, params: Params, y: PyTree, target: PyTree) -> PyTree:
        value, pull = jax.vjp(lambda p, y: value_of(loss, p, y, target, key), params, y)
        return pull(jnp.ones_like(value))

    return _judge(rule, auto)


@dataclasses.dataclass(frozen=True)
class Ruled(Layer):
    """A layer whose derivative is what its own rule says, also for autodiff."""

    layer: Layer

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "layer"), name)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return layer_function(self.layer)(params, x, key), ()

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError("its derivative is for autodiff")


def _judge(rule: Callable[..., PyTree], auto: Callable[..., PyTree]) -> Judge:
    # Compiled once for all passes of the same shapes.
    both = jax.jit(lambda *given: (_named(rule(*given)), _named(auto(*given))))
    control = jax.jit(lambda *given: _named(auto(*given)))

    def judge(gradient: PyTree, key: Key, *given: PyTree) -> AtNumbers:
        got = _numbers(_named(gradient))
        try:
            if key is not None:
                raise _NotWider  # float64 would draw other noise
            with jax.enable_x64(True):
                wide = _float64(given)
                if narrow_dtypes(both.trace(None, *wide).jaxpr):
                    raise _NotWider  # a cast inside
                rule64, exact = _numbers(both(None, *wide))
        except Exception:
            # Also a layer that refuses another dtype.
            return _coarsely(got, _numbers(control(key, *given)), given)
        quick = _judged(rule64, exact, got, exact, exact)
        # What one's own digits explain, autodiff's digits show.
        if quick.ok:
            return quick
        auto = _numbers(control(None, *given))
        found = _judged(rule64, exact, got, auto, exact)
        if not found.ok:
            return found
        # As at a kink, of which float64 is on the other side.
        pairs = zip(*map(jax.tree.leaves, (got, auto)), strict=True)
        near = max((_units(*pair) for pair in pairs), default=0.0)
        return dataclasses.replace(found, units=min(found.units, near))

    return judge


def _coarsely(got: PyTree, auto: PyTree, given: PyTree) -> AtNumbers:
    """Compares with autodiff in the working dtype: to two thirds of its digits, or of those of the
    narrowest dtype among the numbers."""
    dtypes = {a.dtype for a in jax.tree.leaves((got, given)) if is_float(a)}
    eps = max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)
    size = max(map(_size, jax.tree.leaves(auto)), default=0.0)
    ok, units = True, 0.0
    for a, b in zip(*map(jax.tree.leaves, (got, auto)), strict=True):
        off = _size(a.astype(np.float64) - b.astype(np.float64))
        own = max(_size(b), eps ** (1 / 3) * size)
        if np.isfinite(off):
            ok = ok and off <= eps ** (2 / 3) * own
        else:
            ok = ok and np.array_equal(np.isfinite(a), np.isfinite(b))
        units = max(units, _units(a, b))
    return AtNumbers(ok, units)


def _judged(
    rule64: PyTree, exact: PyTree, got: PyTree, auto: PyTree, reference: PyTree
) -> AtNumbers:
    if not all(np.isfinite(a).all() for a in jax.tree.leaves((got, auto, exact))):
        same = jax.tree.map(lambda a, b: np.array_equal(np.isfinite(a), np.isfinite(b)), got, auto)
        return AtNumbers(all(jax.tree.leaves(same)), float("nan"))
    checks = leaf_checks(rule64, exact, got, auto, reference)
    units = [_units(*leaves) for leaves in zip(*map(jax.tree.leaves, (got, exact)), strict=True)]
    return AtNumbers(all(check.ok for check in checks), max(units, default=0.0))


def _numbers(tree: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, tree)


def _units(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| in units of the dtype's eps times max|want|."""
    off, size = _size(got.astype(np.float64) - want.astype(np.float64)), _size(want)
    if not off:
        return 0.0
    return off / (float(jnp.finfo(got.dtype).eps) * size) if size else float("inf")


def _size(a: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64)).max(initial=0.0))


def _named(gradient: tuple[Params, PyTree]) -> PyTree:
    """The floats of a gradient, by the names that `leaf_checks` knows."""
    dparams, dx = gradient
    return jax.tree.map(
        lambda d: d if d is not None and d.dtype != float0 and is_float(d) else None,
        {"params": dparams, "x": dx},
    )


def _cotangent(dy: PyTree, y: PyTree) -> PyTree:
    """dy in the tree of y, in which integers have a gradient of their own kind."""
    leaves, form = jax.tree.flatten(y)
    given = jax.tree.leaves(dy, is_leaf=lambda d: d is None)
    return jax.tree.unflatten(
        form,
        [
            np.zeros(a.shape, float0) if not is_float(a) else d.astype(a.dtype)
            for a, d in zip(leaves, given, strict=True)
        ],
    )


_float64 = functools.partial(
    jax.tree.map, lambda a: np.asarray(a, np.float64) if is_float(a) else a
)
