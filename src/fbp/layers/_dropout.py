"""Dropout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, name_of, require_float


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """Sets numbers to 0 at random, and scales up the others so that the mean stays.

        m  = 1 / (1 - rate) with probability 1 - rate, else 0      drawn for every number of x
        y  = m * x
        dx = m * dy

    `res` is the key and not m: the backward draws the same m again. Without a key y = x, which is
    evaluation.

    Args:
      rate: the probability of a 0, in [0, 1).

    Raises:
      ValueError: rate is not in [0, 1).
      TypeError: x is not a float array.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15, 2014.
    """

    rate: float
    cheap = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"{name_of(self)}: expected rate in [0, 1), got {self.rate}")

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Key]:
        require_float(self, x)
        return self._drop(x, key), key

    def backward(self, params: tuple[()], x: Array, res: Key, dy: Array) -> tuple[Any, Array]:
        return (), self._drop(dy, res).astype(x.dtype)

    def recompute(self, params: tuple[()], x: Array, res: Key) -> Array:
        return self._drop(x, res)

    def _drop(self, x: Array, key: Key) -> Array:
        if key is None:
            return x
        keep = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0)
