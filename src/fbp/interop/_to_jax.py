"""Makes a layer or a loss a JAX function that autodiff differentiates by fbp's rule."""

import functools
from collections.abc import Callable
from typing import Any

from jax import lax

from fbp._custom_vjp import layer_function, loss_function
from fbp._described import described
from fbp._layer import Array, Layer, Loss, Params, PyTree


def to_jax(layer: Layer | Loss) -> Callable[..., Any]:
    """Makes a plain JAX function of a layer or a loss; `jax.grad` of it uses fbp's rule.

        f = fbp.to_jax(layer)        f(params, x, key=None) -> y
        f = fbp.to_jax(loss)         f(params, y, target) -> value, a scalar

    For a layer `f` is a `jax.custom_vjp` function; for a loss it calls one. It works under
    `jax.grad`, `jit`, `vmap` and `scan`, and in the modules of flax and equinox. Its params are
    `layer.init(key)`, or any tree of arrays of that form, kept where the other library keeps its
    own. Like every `custom_vjp` function it has no forward mode (`jax.jvp`). Integers, the key and
    the target are constants.

    A layer keeps params, x and its residuals for the backward. A loss computes its gradient in the
    forward and keeps it; the backward multiplies it by the upstream gradient, a scalar.

    Every call of `to_jax` makes a new function: call it once, outside jitted functions.

    Args:
      layer: a `Layer` or a `Loss`.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(layer, Layer):
        return layer_function(layer)
    if isinstance(layer, Loss):
        return _of_constant_target(loss_function(layer))
    raise TypeError(f"to_jax: expected a Layer or a Loss, got {described(layer)}")


def _of_constant_target(f: Callable[..., Array]) -> Callable[..., Array]:
    """Applies `stop_gradient` to the target outside the rule, where autodiff sees it."""

    @functools.wraps(f)
    def loss(params: Params, y: PyTree, target: PyTree) -> Array:
        return f(params, y, lax.stop_gradient(target))

    return loss
