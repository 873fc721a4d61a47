"""Arithmetic of gradients: sums, casts, and what integers have in the place of one: None."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._contract import is_float
from fbp._layer import Array, PyTree
from fbp._platform import is_on_mesh


def at_least_float32(x: Array) -> Array:
    """Widens bfloat16 and float16, in which sums, means and exponentials lose too much."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def widened(tree: PyTree) -> PyTree:
    """A tree with its floats in at least float32."""
    return jax.tree.map(lambda a: at_least_float32(a) if is_float(a) else a, tree)


def at_least_int32(x: Array) -> Array:
    """Widens integers of 8 and 16 bits, which cannot be compared with larger numbers of classes."""
    narrow = jnp.issubdtype(x.dtype, jnp.integer) and x.dtype not in (jnp.int32, jnp.int64)
    return x.astype(jnp.int32) if narrow else x


def product_over_batch(x: Array, dy: Array) -> Array:
    """x^T dy, summed over all leading axes in at least float32: (..., n), (..., m) -> (n, m).

    One product of two matrices: where a product sums over several axes, XLA first copies x turned
    round, which takes a CPU as long as the product itself. (And a vmapped outer product would be
    summed slowly.) For the same reason a single column of dy is multiplied from the left.

    On a mesh any of the leading axes may lie over devices, and one that is merged behind another
    would have to be gathered first: there it is a product that sums over several axes.
    """
    total = jnp.promote_types(jnp.result_type(x, dy), jnp.float32)
    if is_on_mesh() and x.ndim > 2:
        axes = tuple(range(x.ndim - 1))
        dimensions = (axes, axes), ((), ())
        return lax.dot_general(x, dy, dimensions, preferred_element_type=total)
    rows = math.prod(x.shape[:-1])
    x, dy = x.reshape(rows, x.shape[-1]), dy.reshape(rows, dy.shape[-1])
    if dy.shape[-1] == 1:
        return jnp.matmul(dy.T, x, preferred_element_type=total).T
    return jnp.matmul(x.T, dy, preferred_element_type=total)


def add(dx: PyTree, *others: PyTree) -> PyTree:
    """Sums the gradients of a value that was read several times; None (an integer) stays None."""
    return jax.tree.map(lambda first, *rest: sum(rest, first), dx, *others)


def add_floats(y: PyTree, *others: PyTree) -> PyTree:
    """Sums values: the floats of trees. What is not a float, such as an index, is that of y."""
    return jax.tree.map(
        lambda first, *rest: sum(rest, first) if is_float(first) else first, y, *others
    )


def passed(dy: PyTree, x: PyTree) -> PyTree:
    """The gradient of x where y is x: dy, with None for what is not a float."""
    tree: Any
    leaves, tree = jax.tree.flatten(x)
    ds = tree.flatten_up_to(dy)
    return tree.unflatten([d if is_float(a) else None for a, d in zip(leaves, ds, strict=True)])


def zero_gradient(values: PyTree) -> PyTree:
    """The gradient of what nothing depends on: zeros, and None for what is not a float."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype) if is_float(a) else None, values)


def scaled(dvalue: Any, grads: PyTree) -> PyTree:
    """Multiplies gradients by the upstream gradient dvalue of a scalar, in at least float32."""
    return jax.tree.map(lambda d: (dvalue * at_least_float32(d)).astype(d.dtype), grads)


def like(dparams: PyTree, params: PyTree) -> PyTree:
    """Casts gradients, which were summed in at least float32, to the dtypes of their parameters."""
    return jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, params)
