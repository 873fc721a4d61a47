"""An update that may be skipped."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array

Tree = TypeVar("Tree")


def update_if(go: Array, update: Callable[[Tree], Tree], was: Tree) -> Tree:
    """update(was), or `was` without `go`: written where `was` is, if that is not needed anymore.

    Were all computed and then chosen, the compiler would copy moments that it writes while it still
    reads them for the params.
    """
    if jax.default_backend() == "gpu":
        # A branch would wait for the host. Read once, ahead of all writing, `was` keeps the
        # compiler from copies of what it might still read.
        was = lax.optimization_barrier(was)
        return jax.tree.map(lambda a, b: jnp.where(go, a, b), update(was), was)
    # A CPU has no such wait, and would copy all the same.
    return lax.cond(go, update, lambda was: was, was)
