"""Which arrays are of floats, and the same arrays in another dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_float(a: Any) -> bool:
    """Whether an array is of real or complex floats."""
    return jnp.issubdtype(a.dtype, jnp.inexact)


def is_complex(a: Any) -> bool:
    """Whether an array is of complex floats."""
    return jnp.issubdtype(a.dtype, jnp.complexfloating)


def is_key(a: Any) -> bool:
    """Whether an array is of typed PRNG keys."""
    return jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended)


def narrow(a: Any) -> Any:
    """The array in the dtype it is used in: as it is, but float64 as float32."""
    names = {"float64": "float32", "complex128": "complex64"}
    return _cast(a, names.get(str(a.dtype), a.dtype)) if is_float(a) else a


def wide(a: Any) -> Any:
    """The array in float64 or complex128, whether or not jax has them enabled."""
    return _cast(a, np.complex128 if is_complex(a) else np.float64) if is_float(a) else a


def _cast(a: Any, dtype: Any) -> Any:
    if isinstance(a, jax.core.Tracer):
        return a.astype(dtype)
    # By NumPy, which has float64 always.
    return np.asarray(a) if a.dtype == dtype else np.asarray(a).astype(dtype)
