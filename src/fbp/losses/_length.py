"""The length of a vector and its direction, for vectors of any size."""

import jax.numpy as jnp

from fbp._layer import Array


def length_and_direction(v: Array) -> tuple[Array, Array]:
    """Returns |v| (..., 1) and v / |v| (..., D): the gradient of |v| is the direction.

    v is first divided by its largest element, so that no square overflows or underflows. Where
    v = 0, which has no direction, this is 0: the middle of the subdifferential, the unit ball.
    """
    largest = jnp.abs(v).max(-1, keepdims=True, initial=0)
    z = v / jnp.where(largest == 0, 1, largest)
    squares = (z**2).sum(-1, keepdims=True)
    # 1 in the place of 0, so that the value can be differentiated again there.
    none = squares == 0
    root = jnp.sqrt(jnp.where(none, 1, squares))
    return jnp.where(none, 0, largest * root), jnp.where(none, 0, z / root)
