"""A conditional update of params and optimizer state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, PyTree


def update_if(go: Array, update: Callable[[PyTree], PyTree], old: PyTree) -> PyTree:
    """Returns `update(old)` if `go`, else `old`.

    If the caller donates `old`, the update is in-place. With a select after an unconditional update
    the compiler would copy the moments, since it writes the new ones while it still reads the old
    ones for the params; so this is a branch, except on a GPU.

    Args:
      go: a bool.
      update: maps params and state to the next ones, of the same shapes and dtypes.
      old: params and state.

    Raises:
      TypeError: the update changes a dtype.
    """

    def checked(old: PyTree) -> PyTree:
        new = update(old)
        jax.tree.map(_require_dtype, new, old)
        return new

    def branching(go: Array, old: PyTree) -> PyTree:
        return lax.cond(go, checked, lambda old: old, old)

    def selecting(go: Array, old: PyTree) -> PyTree:
        # On a GPU a branch waits for the host. With the barrier, `old` is read once, before any
        # write; without it, the compiler copies a whole stack in case it is read later.
        old = lax.optimization_barrier(old)
        return jax.tree.map(lambda a, b: jnp.where(go, a, b), checked(old), old)

    # Values set by hand, such as a learning rate, may be weakly typed; this makes them strong.
    old = jax.tree.map(lambda a: jnp.asarray(a, jnp.asarray(a).dtype), old)
    return lax.platform_dependent(go, old, cuda=selecting, rocm=selecting, default=branching)


def _require_dtype(new: Any, old: Array) -> None:
    if new.dtype != old.dtype:
        raise TypeError(
            f"Update: expected an optimizer that keeps the dtypes of its state, "
            f"got {new.dtype} for {old.dtype}"
        )
