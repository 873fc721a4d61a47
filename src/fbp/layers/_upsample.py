"""Upsampling: every pixel of an image several times."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float
from fbp.layers._window import Pair, pair


@dataclasses.dataclass(frozen=True)
class Upsample2D(Layer):
    """Repeats every pixel: the nearest neighbour in a larger image.

        y[i]  = x[floor(i / f)]
        dx[o] = sum_k dy[f o + k]          k = 0..f-1, the copies of pixel o

    along each axis, with f its factor.

    Shapes: x (..., H, W, C), y (..., f H, f W, C).

    Args:
      factor: f, how often each pixel is repeated; or one number for H and one for W.

    Raises:
      ValueError: a factor is below 1; x has no axes H, W, C.
      TypeError: x is not a float array.

    Source: Odena, Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts", Distill, 2016.
    """

    factor: Pair = 2
    cheap = True

    def __post_init__(self) -> None:
        factors = pair(self.factor)
        if len(factors) != 2 or not all(type(f) is int and f >= 1 for f in factors):
            raise ValueError(
                f"{name_of(self)}: expected factor to be 1 or more, or two such numbers, "
                f"got {self.factor!r}"
            )

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        if x.ndim < 3:
            raise ValueError(
                f"{name_of(self)}: expected x to have axes (..., H, W, C), got shape {x.shape}"
            )
        (rows, columns), (*batch, h, w, c) = pair(self.factor), x.shape
        y = jnp.broadcast_to(x[..., None, :, None, :], (*batch, h, rows, w, columns, c))
        return y.reshape(*batch, rows * h, columns * w, c), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        (rows, columns), (*batch, h, w, c) = pair(self.factor), x.shape
        copies = dy.reshape(*batch, h, rows, w, columns, c)
        return (), copies.sum((-4, -2))
