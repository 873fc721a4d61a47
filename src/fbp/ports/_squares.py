"""Sums of squares, for norms of gradients."""

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, PyTree


def sum_of_squares(tree: PyTree) -> Array:
    """Returns the sum of squares of all numbers of a tree, in at least float32."""
    return sum(
        ((at_least_float32(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree)), no_squares(tree)
    )


def no_squares(tree: PyTree) -> Array:
    """Returns 0 in the dtype of `sum_of_squares(tree)`."""
    return jnp.zeros((), jnp.result_type(jnp.float32, *jax.tree.leaves(tree)))
