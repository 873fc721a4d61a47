"""What the rules of the random programs are made with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 5
TABLE = np.random.default_rng(7).normal(size=(SIZE, SIZE)) / 3
MODULE_TABLE = jnp.asarray(TABLE, jnp.float32)


def vjp(f: Any, fwd: Any, bwd: Any, name: str, how: Any = None, **options: Any) -> Any:
    """A `custom_vjp` of that name; `how` are the options of `defvjp`."""
    f.__name__ = name
    rule = jax.custom_vjp(f, **options)
    rule.defvjp(fwd, bwd, **(how or {}))
    return rule


def jvp(f: Any, push: Any, name: str, how: Any = None, **options: Any) -> Any:
    """A `custom_jvp` of that name; `how` are the options of `defjvp`."""
    f.__name__ = name
    rule = jax.custom_jvp(f, **options)
    rule.defjvp(push, **(how or {}))
    return rule
