"""Tells float arrays from others, and casts them between wide and narrow dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_float(a: Any) -> bool:
    """Whether an array holds real or complex floats."""
    return jnp.issubdtype(a.dtype, jnp.inexact)


def is_complex(a: Any) -> bool:
    """Whether an array holds complex floats."""
    return jnp.issubdtype(a.dtype, jnp.complexfloating)


def is_key(a: Any) -> bool:
    """Whether an array holds typed PRNG keys."""
    return jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended)


def narrow(a: Any) -> Any:
    """The array in its working dtype: float64 becomes float32, other dtypes are kept."""
    names = {"float64": "float32", "complex128": "complex64"}
    return _cast(a, names.get(str(a.dtype), a.dtype)) if is_float(a) else a


def wide(a: Any) -> Any:
    """A float array in float64 or complex128, whether or not jax has them enabled."""
    return _cast(a, np.complex128 if is_complex(a) else np.float64) if is_float(a) else a


def _cast(a: Any, dtype: Any) -> Any:
    if isinstance(a, jax.core.Tracer):
        return a.astype(dtype)
    # NumPy has float64 even where jax has it disabled.
    return np.asarray(a) if a.dtype == dtype else np.asarray(a).astype(dtype)
