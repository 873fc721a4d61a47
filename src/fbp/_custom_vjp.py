"""Layers, losses and objectives as `jax.custom_vjp` functions.

Autodiff of a program that calls such a function uses its hand-written `backward`.
"""

from collections.abc import Callable
from typing import Any

import jax

from fbp._gradients import scaled
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree, name_of
from fbp._objective import ObjectiveLike
from fbp._turn import rounded, wide_gradient


def layer_function(layer: Layer) -> Callable[..., PyTree]:
    """The layer as f(params, x, key=None); the key has no gradient."""

    def primal(params: Params, x: PyTree, key: Key = None) -> PyTree:
        return layer.forward(params, x, key)[0]

    def fwd(params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        y, res = layer.forward(params, x, key)
        return y, (params, x, res)

    def bwd(kept: PyTree, dy: PyTree) -> tuple[Params, PyTree, None]:
        params, x, res = kept
        return *layer.backward(params, x, res, dy), None

    return _with_rule(layer, primal, fwd, bwd)


def loss_function(loss: Loss) -> Callable[..., Array]:
    """The loss as f(params, y, target); the target has no gradient."""

    def primal(params: Params, y: PyTree, target: PyTree) -> Array:
        return loss.value(params, y, target)

    def fwd(params: Params, y: PyTree, target: PyTree) -> tuple[Array, PyTree]:
        value, gradient, dtypes = wide_gradient(loss, params, y, target)
        return value, (gradient, dtypes)

    def bwd(kept: PyTree, dvalue: Array) -> tuple[Params, PyTree, None]:
        return *rounded(dvalue, *kept), None

    return _with_rule(loss, primal, fwd, bwd)


def objective_function(objective: ObjectiveLike) -> Callable[..., Array]:
    """The objective as f(params, batch, key=None); only params have a gradient."""

    def primal(params: PyTree, batch: PyTree, key: Key = None) -> Array:
        return objective.value(params, batch, key)

    def fwd(params: PyTree, batch: PyTree, key: Key = None) -> tuple[Array, PyTree]:
        return objective.value_and_grad(params, batch, key)

    def bwd(dparams: PyTree, dvalue: Array) -> tuple[PyTree, None, None]:
        return scaled(dvalue, dparams), None, None

    return _with_rule(objective, primal, fwd, bwd)


def _with_rule(owner: Any, primal: Callable[..., Any], fwd: Any, bwd: Any) -> Callable[..., Any]:
    # The name shown in traces, profiles and reports.
    primal.__name__ = primal.__qualname__ = name_of(owner)
    f = jax.custom_vjp(primal)
    f.defvjp(fwd, bwd)
    return f
