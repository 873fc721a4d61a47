"""Means over examples, with weights."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from fbp._layer import Array, at_least_float32, name_of


class Weighted(NamedTuple):
    """A target whose examples do not all count the same.

    The loss becomes sum(weight * loss) / sum(weight). `weight` has the shape of the target or of
    its first axes: (B,) weighs whole examples. A weight of 0 takes an example out of the loss,
    whatever its y and target are. Weights that are all 0 give a loss of 0.
    """

    target: Any
    weight: Array


def unweighted(target: Any) -> tuple[Any, Array | None]:
    """Splits `Weighted(target, weight)`; a bare target has no weights."""
    if not isinstance(target, Weighted):
        return target, None
    # A sum of many weights overflows float16 and rounds away in bfloat16.
    return target.target, at_least_float32(jnp.asarray(target.weight))


def broadcast_weight(owner: Any, weight: Array, shape: tuple[int, ...]) -> Array:
    """Gives every element of `shape` the weight of its first axes."""
    if weight.shape != shape[: weight.ndim]:
        raise ValueError(
            f"{name_of(owner)}: expected weight to have the first axes of {shape}, "
            f"got shape {weight.shape}"
        )
    missing = len(shape) - weight.ndim
    return jnp.broadcast_to(weight.reshape(weight.shape + (1,) * missing), shape)


def shares(owner: Any, weight: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """What each element contributes to the mean: weight / sum(weight), or 1/n without weights.

    Returns an array of `shape`, or a scalar where all are alike. If nothing counts (no element, or
    only zero weights) the shares are 0, and with them the mean and its gradient.
    """
    if weight is None:
        return jnp.asarray(1 / max(1, math.prod(shape)), dtype)
    weight = broadcast_weight(owner, weight, shape).astype(dtype)
    total = weight.sum()
    return weight / jnp.where(total == 0, 1, total)


def weighted_sum(share: Array, losses: Array) -> Array:
    """sum(share * losses), where a share of 0 takes even an infinite or NaN loss out."""
    return jnp.where(share == 0, 0, share * losses).sum()
