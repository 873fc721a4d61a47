"""Layers, losses and objectives as `jax.custom_vjp` functions, their rules in force."""

from collections.abc import Callable
from typing import Any

import jax

from fbp._layer import Layer, Loss, PyTree
from fbp._objective import Microbatch, Objective


def layer_function(layer: Layer, *args: Any) -> Callable[..., PyTree]:
    """The layer as a `jax.custom_vjp` function, its rule in force."""
    with_key = len(args) == 3

    def primal(params: PyTree, x: PyTree, *key: Any) -> PyTree:
        return layer.forward(params, x, *key)[0]

    f = jax.custom_vjp(primal)

    def fwd(params: PyTree, x: PyTree, *key: Any) -> tuple[PyTree, PyTree]:
        y, res = layer.forward(params, x, *key)
        return y, (params, x, res)

    def bwd(kept: PyTree, dy: PyTree) -> tuple[Any, ...]:
        params, x, res = kept
        return (*layer.backward(params, x, res, dy), *[None] * with_key)

    f.defvjp(fwd, bwd)
    return f


def loss_function(loss: Loss) -> Callable[..., PyTree]:
    """The loss as a `jax.custom_vjp` function, with no gradient by its target."""
    f = jax.custom_vjp(loss.value)

    def fwd(params: PyTree, y: PyTree, target: PyTree) -> tuple[PyTree, PyTree]:
        value, *gradient = loss.value_and_grad(params, y, target)
        return value, gradient

    def bwd(gradient: list[PyTree], dvalue: Any) -> tuple[Any, ...]:
        dparams, dy = gradient
        return *jax.tree.map(lambda d: (d * dvalue).astype(d.dtype), (dparams, dy)), None

    f.defvjp(fwd, bwd)
    return f


def objective_function(objective: Objective | Microbatch, with_key: bool) -> Callable[..., PyTree]:
    """The objective as a `jax.custom_vjp` function, with a gradient by its params alone."""

    def primal(params: PyTree, batch: PyTree, *key: Any) -> PyTree:
        return objective.value(params, batch, *key)

    f = jax.custom_vjp(primal)

    def fwd(params: PyTree, batch: PyTree, *key: Any) -> tuple[PyTree, PyTree]:
        value, dparams = objective.value_and_grad(params, batch, *key)
        return value, dparams

    def bwd(dparams: PyTree, dvalue: Any) -> tuple[Any, ...]:
        scaled = jax.tree.map(lambda d: (d * dvalue).astype(d.dtype), dparams)
        return (scaled, None, *[None] * with_key)

    f.defvjp(fwd, bwd)
    return f
