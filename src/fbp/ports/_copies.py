"""What of an optimizer's state belongs to the copies of a Stack."""

from typing import Any

import jax

from fbp._layer import Params


def per_copy(optimizer: Any, params: Params) -> list[bool]:
    """Which leaves of the optimizer's state have one entry a copy: those that grow with n."""
    pairs = states_of(optimizer, params, jax.tree.map(longer, params))
    return [a.shape != b.shape for a, b in pairs]


def states_of(optimizer: Any, *params: Params) -> list[tuple[Any, ...]]:
    """The leaves of the optimizer's state, as shapes, for each of some params."""
    states = [jax.tree.leaves(jax.eval_shape(optimizer.init, p)) for p in params]
    return list(zip(*states, strict=True))


def longer(a: Any, axis: int = 0) -> jax.ShapeDtypeStruct:
    """The shape of an array with one entry more along an axis."""
    shape = (*a.shape[:axis], a.shape[axis] + 1, *a.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, a.dtype)
