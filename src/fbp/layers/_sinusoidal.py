"""Sinusoidal embedding: a number as the angles of many clocks."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of


@dataclasses.dataclass(frozen=True)
class Sinusoidal(Layer):
    """Embeds a scalar, such as a time or a position, as sines and cosines of it.

        y  = (sin(f x), cos(f x))          f_i = base^(-2 i / n),  i = 0..n/2-1
        dx = sum_i f_i (cos(f_i x) dsin_i - sin(f_i x) dcos_i)

    where dsin and dcos are the halves of dy. An integer x has no gradient: dx is None.

    Shapes: x (...) of floats or integers, y (..., n).

    Args:
      n: size of y, even: first n / 2 sines, then n / 2 cosines.
      base: 2 pi times nearly `base` is the longest of the periods 2 pi / f_i, and 2 pi the
        shortest; x should be measured in units for which these are apt.
      dtype: dtype of y for an integer x; that of a float x is kept.

    Raises:
      ValueError: n is odd or below 2; base is not above 0.
      TypeError: x is not an array of floats or integers.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, which has sines and cosines
    take turns.
    """

    n: int
    base: float = 10_000.0
    dtype: DTypeLike = jnp.float32
    cheap = True

    def __post_init__(self) -> None:
        if self.n < 2 or self.n % 2:
            raise ValueError(f"{name_of(self)}: expected an even n of 2 or more, got {self.n}")
        if not self.base > 0:
            raise ValueError(f"{name_of(self)}: expected base above 0, got {self.base}")

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        dtype = getattr(x, "dtype", type(x).__name__)
        if not (hasattr(x, "dtype") and _is_real(x)):
            raise TypeError(
                f"{name_of(self)}: expected x to be an array of floats or integers, got {dtype}"
            )
        sin, cos, _ = self._clocks(x)
        y = jnp.concatenate([sin, cos], -1)
        return y.astype(x.dtype if _is_float(x) else self.dtype), ()

    def backward(
        self, params: tuple[()], x: Array, res: Any, dy: Array
    ) -> tuple[tuple[()], Array | None]:
        if not _is_float(x):
            return (), None
        sin, cos, f = self._clocks(x)
        dsin, dcos = jnp.split(dy, 2, -1)
        dx = (f * (cos * dsin - sin * dcos)).sum(-1)
        return (), dx.astype(x.dtype)

    def _clocks(self, x: Array) -> tuple[Array, Array, Array]:
        """Returns sin(f x), cos(f x) and f, in at least float32."""
        x = at_least_float32(x if _is_float(x) else x.astype(self.dtype))
        f = jnp.asarray(self.base ** (-np.arange(0, self.n, 2) / self.n), x.dtype)
        angles = x[..., None] * f
        return jnp.sin(angles), jnp.cos(angles), f


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _is_real(x: Array) -> bool:
    return _is_float(x) or jnp.issubdtype(x.dtype, jnp.integer)
