"""An update that may be skipped."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fbp._layer import Array, Params, PyTree

Was = tuple[Params, PyTree]


def update_if(go: Array, optimizer: Any, grads: Params, params: Params, state: PyTree) -> Was:
    """The next params and state of an optimizer, or without `go` the ones given.

    Where the caller gives these away, the next ones are written in their place. Were they computed
    in any case and then chosen, the compiler would copy the moments, which it writes while it still
    reads them for the params.

    Raises:
      TypeError: the optimizer changes the dtype of its state.
    """

    def update(was: Was) -> Was:
        updates, state = optimizer.update(grads, was[1], was[0])
        new = optax.apply_updates(was[0], updates), state
        jax.tree.map(_require_dtype, new, was)
        return new

    # What is set by hand, as a learning rate, may be weakly typed, and would stay so.
    was = jax.tree.map(lambda a: jnp.asarray(a, jnp.asarray(a).dtype), (params, state))
    if jax.default_backend() == "gpu":
        # A branch would wait for the host. Read once, ahead of all writing, `was` keeps the
        # compiler from a copy of a whole stack for what it might still read.
        was = lax.optimization_barrier(was)
        return jax.tree.map(lambda a, b: jnp.where(go, a, b), update(was), was)
    # A CPU has no such wait, and was seen to copy all the same.
    return lax.cond(go, update, lambda was: was, was)


def _require_dtype(new: Array, old: Array) -> None:
    if new.dtype != old.dtype:
        raise TypeError(
            f"Update: expected an optimizer that keeps the dtypes of its state, "
            f"got {new.dtype} for {old.dtype}"
        )
