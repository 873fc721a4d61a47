"""An update that may be skipped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, PyTree


def update_if(go: Array, update: Callable[[PyTree], PyTree], old: PyTree) -> PyTree:
    """`update(old)`, or without `go` the old arrays.

    If the caller gives these away, the new ones are written in their place. Were they computed in
    any case and then selected, the compiler would copy the moments, because it writes them while it
    still reads them for the params.

    Args:
      go: a bool.
      update: from params and state to the next ones, of the same shapes and dtypes.
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
        # On a GPU a branch waits for the host. Read once, ahead of all writing, `old` keeps the
        # compiler from a copy of a whole stack for what it might still read.
        old = lax.optimization_barrier(old)
        return jax.tree.map(lambda a, b: jnp.where(go, a, b), checked(old), old)

    # What is set by hand, such as a learning rate, may be weakly typed, and would stay so.
    old = jax.tree.map(lambda a: jnp.asarray(a, jnp.asarray(a).dtype), old)
    return lax.platform_dependent(go, old, cuda=selecting, rocm=selecting, default=branching)


def _require_dtype(new: Any, old: Array) -> None:
    if new.dtype != old.dtype:
        raise TypeError(
            f"Update: expected an optimizer that keeps the dtypes of its state, "
            f"got {new.dtype} for {old.dtype}"
        )
