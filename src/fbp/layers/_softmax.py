"""Softmax and its logarithm, over the last axis."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class Softmax(Layer):
    """Turns scores into probabilities over the last axis.

        y_i  = exp(x_i) / sum_j exp(x_j)
        dx_i = y_i * (dy_i - sum_j y_j dy_j)

    from dy_j/dx_i = y_j (1[i = j] - y_i). Every row of dx sums to 0, since adding the same number
    to all scores does not change y. Shapes: x and y (..., C). Raises TypeError when x is not a
    float array, ValueError when it has no axis.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        _require_axis(self, x)
        return jax.nn.softmax(at_least_float32(x)).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        y = jax.nn.softmax(at_least_float32(x))
        dx = y * (dy - (y * dy).sum(-1, keepdims=True))
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class LogSoftmax(Layer):
    """Turns scores into log-probabilities over the last axis.

        y_i  = x_i - log sum_j exp(x_j)
        dx_i = dy_i - softmax(x)_i * sum_j dy_j

    Shapes: x and y (..., C). Raises TypeError when x is not a float array, ValueError when it has
    no axis.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        _require_axis(self, x)
        return jax.nn.log_softmax(at_least_float32(x)).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        wide = at_least_float32(dy)
        dx = wide - jax.nn.softmax(at_least_float32(x)) * wide.sum(-1, keepdims=True)
        return (), dx.astype(x.dtype)


def _require_axis(layer: Layer, x: Array) -> None:
    require_float(layer, x)
    if jnp.ndim(x) == 0:
        raise ValueError(f"{name_of(layer)}: expected x to have an axis, got a scalar")
