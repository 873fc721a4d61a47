"""A tree of arrays as arrays by name, and back."""

from typing import Any

import jax
import numpy as np

from fbp._errors import InputError
from fbp._layer import PyTree
from fbp._tree import path_of


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, on the host and independent of the device's memory.

    A key of `jax.random` becomes its numbers.
    """
    # The device's memory is donated to the next step, so that a view of it would change.
    return {name: np.array(_plain(leaf)) for name, leaf in _leaves(tree).items()}


def like(shapes: PyTree, arrays: dict[str, np.ndarray], source: str) -> PyTree:
    """The tree of these shapes and dtypes whose leaves are the arrays of their names.

    Raises:
      InputError: an array is missing, too many, or of another shape or dtype.
    """
    leaves = _leaves(shapes)
    if missing := [name for name in leaves if name not in arrays]:
        raise InputError(f"{source}: expected an array {missing[0]}, got none: of another model?")
    if more := [name for name in arrays if name not in leaves]:
        raise InputError(f"{source}: expected no array {more[0]}: of another model?")
    made = []
    for name, leaf in leaves.items():
        got, wanted = arrays[name], jax.eval_shape(_plain, leaf)
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{source}: expected {name} to be {wanted.dtype}{list(wanted.shape)}, "
                f"got {got.dtype}{list(got.shape)}: of another model?"
            )
        # A copy, because an array of the device may share the host's memory and is donated.
        array = jax.numpy.array(got)
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            array = jax.random.wrap_key_data(
                array, impl=jax.random.key_impl(jax.numpy.empty((), leaf.dtype))
            )
        made.append(array)
    return jax.tree.unflatten(jax.tree.structure(shapes), made)


def _leaves(tree: PyTree) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, (keys, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        name = path_of(keys)
        # Two paths can be written alike: those of {"a.b": x} and {"a": {"b": x}}.
        found[name if name not in found else f"{name}#{i}"] = leaf
    return found


def _plain(leaf: Any) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
