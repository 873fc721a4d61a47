"""Layers that join the parts of a tree: in a sum, or side by side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._contract import is_float
from fbp._described import described
from fbp._gradients import add_floats, passed
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._tree import children
from fbp.combinators._residual import require_same


@dataclasses.dataclass(frozen=True)
class Add(Layer):
    """Adds the parts of x: y = x_1 + ... + x_n.

        dx_i = dy                              every term passes dy on unchanged

    In a `Graph` it joins what `Sum` and `Residual` join elsewhere. Integers are not added: those of
    y are those of x_1, of a dict the part whose name is first in the alphabet.

    Shapes: x a tuple or a dict of parts of one tree, shape and dtype, which is that of y.

    Raises:
      ValueError: x has no parts, or they differ in tree, shape or dtype.
    """

    cheap = True

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        first, *others = self._parts(x)[0]
        for other in others:
            require_same(self, first, other, "parts of one shape and dtype")
        return add_floats(first, *others), ()

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        parts, tree = self._parts(x)
        return (), tree.unflatten([passed(dy, part) for part in parts])

    def _parts(self, x: PyTree) -> tuple[list[PyTree], Any]:
        parts, tree = children(x)
        if not parts or jax.tree_util.treedef_is_leaf(tree):
            raise ValueError(f"Add: expected a tuple or a dict of parts, got {described(x)}")
        return list(parts.values()), tree


@dataclasses.dataclass(frozen=True)
class Concat(Layer):
    """Joins the arrays of a tree along an axis: y = [x_1, ..., x_n].

        dx_i = the part of dy that x_i is      cut where the arrays meet

    Shapes: x a tree (..., n_i, ...), y (..., sum n_i, ...); a dict's arrays in the order of its
    sorted names, as everywhere in JAX.

    Args:
      axis: below 0, counted from the last axis.

    Raises:
      ValueError: axis is not below 0; shapes differ in another axis; x holds no array.
      TypeError: an array is not of floats.
    """

    axis: int = -1
    cheap = True

    def __post_init__(self) -> None:
        if self.axis >= 0:
            raise ValueError(
                f"Concat: expected axis below 0, since leading axes are batch axes, got {self.axis}"
            )

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[Array, PyTree]:
        arrays = jax.tree.leaves(x)
        if not all(is_float(a) for a in arrays):
            raise TypeError(f"Concat: expected float arrays, got {described(x)}")
        others = {(*a.shape[: self.axis], *a.shape[len(a.shape) + self.axis + 1 :]) for a in arrays}
        if len(others) != 1 or any(a.ndim < -self.axis for a in arrays):
            raise ValueError(
                f"Concat: expected arrays that differ in axis {self.axis} alone, got {described(x)}"
            )
        return jnp.concatenate(arrays, self.axis), ()

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: Array) -> tuple[Params, PyTree]:
        tree: Any
        arrays, tree = jax.tree.flatten(x)
        ends, end = [], 0
        for a in arrays[:-1]:
            ends.append(end := end + a.shape[self.axis])
        parts = jnp.split(dy, ends, self.axis)
        # Arrays of several dtypes were joined in the widest.
        return (), tree.unflatten([d.astype(a.dtype) for d, a in zip(parts, arrays, strict=True)])
