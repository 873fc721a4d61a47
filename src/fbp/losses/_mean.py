"""Weighted means over examples."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from fbp._layer import Array, at_least_float32, name_of


class Weighted(NamedTuple):
    """A target with weights for its examples.

    The loss becomes sum(weight * loss) / sum(weight). `weight` has the shape of the target or of
    its first axes: (B,) weighs whole examples. An example of weight 0 has no effect on the loss,
    even if its y or target is not finite. If all weights are 0, the loss is 0.
    """

    target: Any
    weight: Array


def unweighted(target: Any) -> tuple[Any, Array | None]:
    """Splits `Weighted(target, weight)`; for any other target the weight is None."""
    if not isinstance(target, Weighted):
        return target, None
    # In float16 a sum of many weights may overflow; in bfloat16 it loses small terms.
    return target.target, at_least_float32(jnp.asarray(target.weight))


def broadcast_weight(owner: Any, weight: Array, shape: tuple[int, ...]) -> Array:
    """Broadcasts `weight`, which has the first axes of `shape`, to `shape`."""
    if weight.shape != shape[: weight.ndim]:
        raise ValueError(
            f"{name_of(owner)}: expected weight to have the first axes of {shape}, "
            f"got shape {weight.shape}"
        )
    missing = len(shape) - weight.ndim
    return jnp.broadcast_to(weight.reshape(weight.shape + (1,) * missing), shape)


def shares(owner: Any, weight: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns the coefficients of the mean: weight / sum(weight), or 1/n without weights.

    They are an array of `shape`, or a scalar without weights. If all weights are 0, so are the
    coefficients, the mean and its gradient.
    """
    if weight is None:
        return jnp.asarray(1 / max(1, math.prod(shape)), dtype)
    weight = broadcast_weight(owner, weight, shape).astype(dtype)
    total = weight.sum()
    return weight / jnp.where(total == 0, 1, total)


def weighted_sum(share: Array, losses: Array) -> Array:
    """Returns sum(share * losses), without losses of share 0, even if they are inf or NaN."""
    return jnp.where(share == 0, 0, share * losses).sum()
