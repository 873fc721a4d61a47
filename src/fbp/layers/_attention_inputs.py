"""The inputs of attention: checks q, k, v and the mask, and groups them by head."""

from typing import Any

import jax.numpy as jnp

from fbp._layer import Array, name_of
from fbp._require import require_float
from fbp._schedules.heads import by_head


def unpacked(layer: Any, x: Any) -> tuple[Array, Array, Array, Array | None]:
    """Returns q, k, v and the mask of an `Attention` layer, grouped by head of keys.

    Raises:
      ValueError, TypeError: as documented in `Attention`.
    """
    if not isinstance(x, tuple | list) or len(x) not in (3, 4):
        got = f"{len(x)} arrays" if isinstance(x, tuple | list) else type(x).__name__
        raise ValueError(f"{name_of(layer)}: expected x = (q, k, v) or (q, k, v, mask), got {got}")
    q, k, v = x[:3]
    for name, a in zip("qkv", (q, k, v), strict=True):
        require_float(layer, a, name)
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if (
        min(q.ndim, k.ndim, v.ndim) < 3
        or q.shape[-1] != k.shape[-1]
        or k.shape[:-1] != v.shape[:-1]
        or q.shape[:-3] != k.shape[:-3]
        or not q.shape[-1]
    ):
        raise ValueError(
            f"{name_of(layer)}: expected q (..., T, H, K), k (..., S, G, K), v (..., S, G, M), "
            f"got {shapes}"
        )
    if not k.shape[-2] or not q.shape[-2] or q.shape[-2] % k.shape[-2]:
        raise ValueError(
            f"{name_of(layer)}: expected heads of k to divide those of q, got {shapes}"
        )
    if layer.causal and q.shape[-3] != k.shape[-3]:
        raise ValueError(f"{name_of(layer)}: expected as many keys as causal queries, got {shapes}")
    mask = x[3] if len(x) == 4 else None
    if mask is not None:
        if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.integer):
            raise TypeError(
                f"{name_of(layer)}: expected a mask of bools or integers, got {mask.dtype}"
            )
        if mask.shape != k.shape[:-2]:
            raise ValueError(
                f"{name_of(layer)}: expected a mask of shape {k.shape[:-2]}, got {mask.shape}"
            )
        if mask.dtype != bool and q.shape[-3] != k.shape[-3]:
            raise ValueError(
                f"{name_of(layer)}: expected as many keys as queries with a mask of integers, the "
                f"documents of both, got {shapes}"
            )
        mask = jnp.broadcast_to(mask[..., None, :], (*k.shape[:-3], k.shape[-2], k.shape[-3]))
    q, k, v = (by_head(a, k.shape[-2]) for a in (q, k, v))
    return q, k, v, mask
