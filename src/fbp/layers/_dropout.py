"""Dropout: numbers of x are set to 0 at random."""

import dataclasses

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """Sets each number to 0 with probability `rate`, and scales up the rest to keep the mean.

        y  = m x / (1 - rate)          m = 1 with probability 1 - rate, else 0
        dx = m dy / (1 - rate)

    so that E[y] = x. In evaluation, without a key, y = x ("inverted" dropout). res is the key, a
    few bytes, from which the backward draws the same m again.

    Shapes: x and y of any shape. Raises TypeError when x is not a float array.

    Args:
      rate: probability that a number is set to 0, in [0, 1).

    Raises:
      ValueError: rate is not in [0, 1).

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: A Simple Way to
    Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    """

    rate: float
    cheap = True

    @property
    def draws(self) -> bool:
        return self.rate > 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout: expected rate to be in [0, 1), got {self.rate}")

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Key]:
        require_float(self, x)
        return self._drop(x, key), key

    def backward(self, params: tuple[()], x: Array, res: Key, dy: Array) -> tuple[tuple[()], Array]:
        # y is linear in x with a diagonal Jacobian, so dx is the same function of dy.
        return (), self._drop(dy, res).astype(x.dtype)

    def recompute(self, params: tuple[()], x: Array, res: Key) -> Array:
        return self._drop(x, res)

    def _drop(self, x: Array, key: Key) -> Array:
        if key is None:
            return x
        kept = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)
