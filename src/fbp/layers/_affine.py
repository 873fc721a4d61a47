"""Scale and Bias: the two halves of a neuron, `w * x + b`."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer
from fbp._require import require_shape, require_trailing


@dataclasses.dataclass(frozen=True)
class Scale(Layer):
    """Multiplies by a weight.

        y  = w * x
        dw = sum(x * dy)       over the batch axes
        dx = w * dy

    Shapes: w `shape`, x and y (..., *shape). params is w itself.

    Args:
      shape: shape of w; () for a single weight, (D,) for one weight per feature.
      w_init: initializer of w.
      dtype: dtype of w.

    Raises:
      ValueError: the last axes of x are not `shape`.
      TypeError: x is not a float array; shape is not a tuple.
    """

    shape: tuple[int, ...] = ()
    w_init: initializers.Initializer = initializers.ones
    dtype: DTypeLike = jnp.float32
    cheap = True

    def __post_init__(self) -> None:
        require_shape(self, self.shape)

    def init(self, key: Array) -> Array:
        return self.w_init(key, self.shape, self.dtype)

    def forward(self, params: Array, x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, self.shape)
        return params * x, ()

    def backward(self, params: Array, x: Array, res: Any, dy: Array) -> tuple[Array, Array]:
        batch = tuple(range(x.ndim - len(self.shape)))
        dw = (at_least_float32(x) * at_least_float32(dy)).sum(batch)
        dx = params * dy
        return like(dw, params), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Bias(Layer):
    """Adds a bias.

        y  = x + b
        db = sum(dy)           over the batch axes
        dx = dy

    Shapes: b `shape`, x and y (..., *shape). params is b itself.

    Args:
      shape: shape of b; () for a single bias, (D,) for one bias per feature.
      b_init: initializer of b.
      dtype: dtype of b.

    Raises:
      ValueError: the last axes of x are not `shape`.
      TypeError: x is not a float array; shape is not a tuple.
    """

    shape: tuple[int, ...] = ()
    b_init: initializers.Initializer = initializers.zeros
    dtype: DTypeLike = jnp.float32
    cheap = True

    def __post_init__(self) -> None:
        require_shape(self, self.shape)

    def init(self, key: Array) -> Array:
        return self.b_init(key, self.shape, self.dtype)

    def forward(self, params: Array, x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, self.shape)
        return x + params, ()

    def backward(self, params: Array, x: Array, res: Any, dy: Array) -> tuple[Array, Array]:
        batch = tuple(range(x.ndim - len(self.shape)))
        db = at_least_float32(dy).sum(batch)
        return like(db, params), dy.astype(x.dtype)
