"""A function of its float arguments alone, and arguments in another dtype."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def as_dtype(args: tuple, dtype: str) -> tuple:
    """The arguments on the device, float leaves in this dtype, complex ones as wide."""

    def cast(leaf: Any) -> Any:
        if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return jnp.asarray(leaf, jnp.result_type(dtype, jnp.complex64))
        return jnp.asarray(leaf, dtype if is_float(leaf) else None)

    return jax.tree.map(cast, args)


def parted(f: Callable, args: tuple) -> tuple[Callable, list[jax.Array], list[Any]]:
    """h(floats, others) gives f's float outputs; and its float leaves, and the other ones."""
    leaves, tree = jax.tree.flatten(args)
    where = [is_float(leaf) for leaf in leaves]

    def h(floats: Iterable[Any], others: Iterable[Any]) -> tuple:
        floats, others = iter(floats), iter(others)
        full = [next(floats if here else others) for here in where]
        return tuple(y for y in jax.tree.leaves(f(*jax.tree.unflatten(tree, full))) if is_float(y))

    parts = (
        [leaf for leaf, here in zip(leaves, where, strict=True) if here == kind] for kind in (1, 0)
    )
    return h, *parts


def of_floats(f: Callable, args: tuple) -> tuple[Callable, list[jax.Array]]:
    """f as a function of its float leaves that gives its float outputs, and those leaves."""
    h, floats, others = parted(f, args)
    return lambda *xs: h(xs, others), floats
