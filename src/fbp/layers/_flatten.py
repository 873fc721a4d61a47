"""Flatten and Unflatten: the same numbers in another shape."""

import dataclasses
import math
from typing import Any

from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float, require_shape, require_trailing


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """Merges the last axes into one: from an image to a vector.

    y = x and dx = dy, reshaped.

    Shapes: x (..., H, W, C), y (..., H W C). Raises TypeError when x is not a float array,
    ValueError when it has fewer axes than `axes`.

    Args:
      axes: number of axes to merge, 1 or more.
    """

    axes: int = 3
    cheap = True

    def __post_init__(self) -> None:
        if self.axes < 1:
            raise ValueError(f"Flatten: expected axes to be 1 or more, got {self.axes}")

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        batch = x.ndim - self.axes
        if batch < 0:
            raise ValueError(
                f"{name_of(self)}: expected x to have {self.axes} axes or more, got shape {x.shape}"
            )
        return x.reshape(*x.shape[:batch], math.prod(x.shape[batch:])), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        return (), dy.reshape(x.shape).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Unflatten(Layer):
    """Splits the last axis into several: from a vector to an image.

    y = x and dx = dy, reshaped.

    Shapes: x (..., H W C), y (..., H, W, C). Raises TypeError when x is not a float array or shape
    not a tuple, ValueError when the size of its last axis is not the product of `shape`.

    Args:
      shape: sizes of the new axes, such as (8, 8, 1).
    """

    shape: tuple[int, ...]
    cheap = True

    def __post_init__(self) -> None:
        require_shape(self, self.shape)

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (math.prod(self.shape),))
        return x.reshape(*x.shape[:-1], *self.shape), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        return (), dy.reshape(x.shape).astype(x.dtype)
