"""Out: a layer or a loss inside other people's autodiff."""

import functools
from collections.abc import Callable
from typing import Any

from jax import lax

from fbp._custom_vjp import layer_function, loss_function
from fbp._layer import Array, Layer, Loss, Params, PyTree


def to_jax(layer: Layer | Loss) -> Callable[..., Any]:
    """Makes a plain JAX function of a layer or a loss; `jax.grad` of it is what fbp's rule says.

        f = fbp.to_jax(layer)        f(params, x, key=None) -> y
        f = fbp.to_jax(loss)         f(params, y, target) -> value, a scalar

    `f` is, or of a loss calls, a `jax.custom_vjp` function, and goes wherever one goes: under
    `jax.grad`, `jit`, `vmap` and `scan`, into the modules of flax and equinox. Its params are
    `layer.init(key)`, or any tree of arrays of that form, kept wherever the other library keeps its
    own. It has no forward mode (`jax.jvp`), as no `custom_vjp` function has; integers, the key and
    the target are constants.

    A layer keeps params, x and its residuals for the backward. A loss keeps its gradient, which it
    has at once, and multiplies it by the one number that comes from downstream.

    Every call makes a new function: make it once, outside what is jitted.

    Args:
      layer: a `Layer` or a `Loss`.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(layer, Layer):
        return layer_function(layer)
    if isinstance(layer, Loss):
        return _of_constant_target(loss_function(layer))
    raise TypeError(f"to_jax: expected a Layer or a Loss, got {layer!r:.80}")


def _of_constant_target(f: Callable[..., Array]) -> Callable[..., Array]:
    """Says that a target is a constant where everybody can see it, outside of the rule."""

    @functools.wraps(f)
    def loss(params: Params, y: PyTree, target: PyTree) -> Array:
        return f(params, y, lax.stop_gradient(target))

    return loss
