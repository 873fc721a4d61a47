"""Pooling: one number for each window of an image, per channel."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float
from fbp.layers._window import Padding, Pair, Slide, Window, pair


@dataclasses.dataclass(frozen=True)
class MaxPool2D(Layer):
    """The largest number of each window.

        y[o]  = max_k x[s o + k - p]
        dx[i] = sum of dy[o] over the positions o whose maximum is pixel i

    where o is a position of the window, k an element of it, s the stride and p the padding before
    the first pixel, which is never a maximum. Among equal maxima, the first in reading order
    (row by row) gets the whole gradient, as in PyTorch. NaN counts as larger than any number.

    Shapes: x (..., H, W, C), y (..., H', W', C) with H' = floor((H + padding - size) / s) + 1.

    Args:
      size: size of the window.
      stride: pixels from one position of the window to the next; None means `size`.
      padding: "SAME" gives H' = ceil(H / stride); "VALID" is no padding; a number is the padding of
        all sides; or ((top, bottom), (left, right)). Must be smaller than the window.

    Raises:
      ValueError: x has no axes H, W, C; the window does not fit into the padded image.
      TypeError: x is not a float array.

    Source: Ranzato, Huang, Boureau and LeCun, "Unsupervised Learning of Invariant Feature
    Hierarchies with Applications to Object Recognition", CVPR 2007.
    """

    size: Pair
    stride: Pair | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        _window(self)

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        elements = _elements(x, _window(self).over(x))
        return functools.reduce(_first_larger, (x_k for _, x_k in elements)), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        rows, columns = _window(self).over(x)
        elements = _elements(x, (rows, columns))
        y = functools.reduce(_first_larger, (x_k for _, x_k in elements))
        # Windows may overlap: a pixel that is the maximum of several sums their gradients.
        dy = at_least_float32(dy)
        dx = jnp.zeros(x.shape, dy.dtype)
        taken = jnp.zeros(y.shape, bool)
        for (i, j), x_k in elements:
            is_max = (x_k == y) | jnp.isnan(x_k)
            dx_k = jnp.where(is_max & ~taken, dy, 0)
            taken |= is_max
            dx += _pad(dx_k, rows.spread(i), columns.spread(j))
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class AvgPool2D(Layer):
    """The mean of each window. Padding counts as zeros, as in PyTorch and Flax.

        y[o]  = sum_k x[s o + k - p] / K           K = kh kw, the elements of a window
        dx[i] = sum_k dy[(i + p - k) / s] / K      where s divides i + p - k

    where o is a position of the window, k an element of it, s the stride and p the padding before
    the first pixel. These are the convolution with weights 1 / K and its transpose: see `Conv2D`.

    Shapes: x (..., H, W, C), y (..., H', W', C) with H' = floor((H + padding - size) / s) + 1.

    Args:
      size: size of the window.
      stride: pixels from one position of the window to the next; None means `size`.
      padding: "SAME" gives H' = ceil(H / stride); "VALID" is no padding; a number is the padding of
        all sides; or ((top, bottom), (left, right)). Must be smaller than the window.

    Raises:
      ValueError: x has no axes H, W, C; the window does not fit into the padded image.
      TypeError: x is not a float array.
    """

    size: Pair
    stride: Pair | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        _window(self)

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        rows, columns = _window(self).over(x)
        padded = _pad(at_least_float32(x), (rows.lo, rows.hi, 0), (columns.lo, columns.hi, 0))
        y = _window_sums(padded, (rows.k, columns.k), (rows.s, columns.s)) / (rows.k * columns.k)
        return y.astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        rows, columns = _window(self).over(x)
        spread = _pad(
            at_least_float32(dy), (*rows.back, rows.s - 1), (*columns.back, columns.s - 1)
        )
        dx = _window_sums(spread, (rows.k, columns.k), (1, 1)) / (rows.k * columns.k)
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool2D(Layer):
    """The mean over a whole image.

        y  = sum_hw x / (H W)
        dx = dy / (H W)            at every pixel

    Shapes: x (..., H, W, C), y (..., C). Raises TypeError when x is not a float array, ValueError
    when it has no axes H, W, C.

    Source: Lin, Chen and Yan, "Network In Network", arXiv:1312.4400.
    """

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        if x.ndim < 3:
            raise ValueError(
                f"{name_of(self)}: expected x to have axes (..., H, W, C), got shape {x.shape}"
            )
        return at_least_float32(x).mean((-3, -2)).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        pixels = x.shape[-3] * x.shape[-2]
        dx = at_least_float32(dy)[..., None, None, :] / pixels
        return (), jnp.broadcast_to(dx, x.shape).astype(x.dtype)


def _window(layer: MaxPool2D | AvgPool2D) -> Window:
    size, stride = layer.size, layer.stride
    window = Window(layer, size, size if stride is None else stride, layer.padding)
    # A window that lies entirely in the padding would have nothing to pool.
    if window.sides and any(
        max(side) >= k for side, k in zip(window.sides, pair(size), strict=True)
    ):
        raise ValueError(
            f"{name_of(layer)}: expected padding smaller than the window {pair(size)}, "
            f"got {layer.padding}"
        )
    return window


def _elements(x: Array, slides: tuple[Slide, ...]) -> list[tuple[tuple[int, int], Array]]:
    """Returns, for each element of the window in reading order, its index and x there.

    Each x has the shape of y: one pixel per position of the window.
    """
    rows, columns = slides
    x = _pad(x, (rows.lo, rows.hi, 0), (columns.lo, columns.hi, 0), fill=-jnp.inf)
    return [
        (
            (i, j),
            x[..., i : i + rows.reach : rows.s, j : j + columns.reach : columns.s, :],
        )
        for i in range(rows.k)
        for j in range(columns.k)
    ]


def _first_larger(y: Array, x: Array) -> Array:
    return jnp.where((y >= x) | jnp.isnan(y), y, x)


def _window_sums(x: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
    batch = (1,) * (x.ndim - 3)
    # Only with a constant 0, not a traced one, is this a reduce_window_sum, which has a derivative.
    zero = x.dtype.type(0)
    return lax.reduce_window(x, zero, lax.add, (*batch, *size, 1), (*batch, *stride, 1), "VALID")


def _pad(
    x: Array, rows: tuple[int, int, int], columns: tuple[int, int, int], fill: float = 0
) -> Array:
    """`lax.pad` of H and W: low, high (negative to crop) and interior padding of each."""
    none = (0, 0, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), (*(none,) * (x.ndim - 3), rows, columns, none))
