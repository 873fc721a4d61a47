"""Weighted means over examples."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32
from fbp._layer import Array, name_of


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
    return shares_of(owner, weight, [shape], [dtype])[0]


def shares_of(
    owner: Any, weight: Array | None, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]
) -> list[Array]:
    """Returns the `shares` of one mean over all elements of several arrays, for each array.

    The weight has the first axes of every one of them.
    """
    if weight is None:
        n = max(1, sum(math.prod(shape) for shape in shapes))
        return [jnp.asarray(1 / n, dtype) for dtype in dtypes]
    weights = [
        broadcast_weight(owner, weight, shape).astype(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    total = sum((w.sum() for w in weights[1:]), weights[0].sum())
    total = jnp.where(total == 0, 1, total)
    return [w / total.astype(w.dtype) for w in weights]


def weighted_sum(share: Array, losses: Array) -> Array:
    """Returns sum(share * losses), without losses of share 0, even if they are inf or NaN."""
    return jnp.where(share == 0, 0, share * losses).sum()


def count_examples(owner: Any, target: Any) -> Array:
    """Returns the size of the first axis that all arrays of a target have; 1 where none has axes.

    A mean over all elements of several arrays adds up over parts of a batch only where they have
    the same number of examples.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(target)}
    if len(sizes) != 1:
        raise ValueError(
            f"{name_of(owner)}.weight: expected a target whose arrays have examples as their "
            f"first axis, got {described(target)}"
        )
    return jnp.sum(jnp.ones(next(iter(sizes))))
