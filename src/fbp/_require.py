"""What layers require of their arguments: errors that say what was expected, and what came."""

import numbers
from typing import Any

import jax.numpy as jnp

from fbp._described import described
from fbp._layer import Array, Layer, Params, name_of


def require_float(owner: Any, x: Array, name: str = "x") -> None:
    """Raises TypeError unless x is a floating-point array."""
    dtype = getattr(x, "dtype", type(x).__name__)
    if not (hasattr(x, "dtype") and jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{name_of(owner)}: expected {name} to be a float array, got {dtype}")


def require_trailing(owner: Any, x: Array, shape: tuple[int, ...], name: str = "x") -> None:
    """Raises unless x is a float array whose last axes have the given sizes."""
    require_float(owner, x, name)
    if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        what = f"last axis of {name} to be {shape[0]}"
        if len(shape) > 1:
            what = f"last axes of {name} to be {shape}"
        raise ValueError(f"{name_of(owner)}: expected {what}, got shape {x.shape}")


def require_shape(owner: Any, shape: Any) -> None:
    """Raises TypeError unless a layer's `shape` is a tuple of sizes."""
    if not (isinstance(shape, tuple) and all(isinstance(n, numbers.Integral) for n in shape)):
        cure = f": write ({shape},)" if isinstance(shape, numbers.Integral) else ""
        raise TypeError(
            f"{name_of(owner)}: expected shape to be a tuple of sizes, got {shape!r}{cure}"
        )


def require_params(owner: Any, params: Params, **shapes: tuple[int, ...]) -> None:
    """Raises ValueError unless params is a dict of arrays with these names and shapes."""
    got: Any = described(params)
    if isinstance(params, dict):
        got = {name: jnp.shape(leaf) for name, leaf in params.items()}
    if got != shapes:
        raise ValueError(f"{name_of(owner)}: expected params of shapes {shapes}, got {got}")


def require_layer(owner: Any, layer: Any) -> None:
    """Raises TypeError unless it is given a Layer."""
    if not isinstance(layer, Layer):
        cure = ""
        if isinstance(layer, type) and issubclass(layer, Layer):
            cure = f": make one, {layer.__name__}(...)"
        elif callable(layer) and not isinstance(layer, type):
            cure = ": make a layer of it by fbp.from_jax"
        elif isinstance(layer, list | tuple) and all(isinstance(item, Layer) for item in layer):
            cure = f": write {name_of(owner)}(*layers)"
        raise TypeError(f"{name_of(owner)}: expected a Layer, got {described(layer)}{cure}")
