"""Whether a layer acts on each position of a sequence alone, as `Layer.steps` assumes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def require_single_positions(layer: Any, x: Any) -> None:
    """Raises TypeError where `forward` reads other positions of a sequence and `step` cannot.

    Three positions are run together and one by one, with drawn numbers. A layer that has not drawn
    params of its own, or that takes other shapes, is not tried.

    Args:
      layer: a layer that inherits `start`, `step` and `steps`.
      x: the input at one position, or its shapes and dtypes.
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype), x)
    leaves, tree = jax.tree.flatten(shapes)
    try:
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
            apart = _reads_other_positions(layer, tuple(leaves), tree)
    except Exception:
        return
    if apart:
        raise TypeError(
            f"{type(layer).__name__}: expected start and step, since its forward reads other "
            "positions of a sequence than its own: without them sampling computes another function "
            "than forward"
        )


@functools.lru_cache(maxsize=256)
def _reads_other_positions(layer: Any, leaves: tuple[Any, ...], tree: Any) -> bool:
    rng = np.random.default_rng(0)

    def drawn(a: Any) -> tuple[Any, int]:
        # Floats are (..., T, n), integers (..., T).
        axis = max(len(a.shape) - 1, 0) if jnp.issubdtype(a.dtype, jnp.inexact) else len(a.shape)
        shape = (*a.shape[:axis], 3, *a.shape[axis:])
        if jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(rng.normal(size=shape), a.dtype), axis
        return jnp.asarray(rng.integers(2, size=shape), a.dtype), axis

    values, axes = zip(*map(drawn, leaves), strict=True)
    params = layer.init(jax.random.key(0))
    together, _ = layer.forward(params, tree.unflatten(values))
    for t in range(3):
        one = [lax.dynamic_slice_in_dim(a, t, 1, k) for a, k in zip(values, axes, strict=True)]
        alone, _ = layer.forward(params, tree.unflatten(one))
        for whole, part in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            here = lax.dynamic_slice_in_dim(whole, t, 1, axes[0])
            scale = np.abs(np.asarray(whole, np.float64)).max(initial=1e-30)
            error = np.abs(np.asarray(here, np.float64) - np.asarray(part, np.float64))
            if error.max(initial=0.0) > 1e-4 * scale:
                return True
    return False
