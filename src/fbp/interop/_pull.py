"""What `jax.vjp` keeps, as the residuals of a layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._layer import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pull:
    """A function that `jax.vjp` returned, without the arrays that its caller has anyway.

    Attributes:
      kept: the arrays that it closes over; None for those among the leaves of `given`.
      places: for each of those arrays its index among the leaves of `given`, or None.
      tree: the tree of the function, of which the arrays are the leaves.
      y: the tree, and the shapes and dtypes of y.
    """

    kept: list[Any]
    places: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    tree: Any = dataclasses.field(metadata={"static": True})
    y: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, pull: Any, given: PyTree, y: PyTree) -> "Pull":
        arrays, tree = jax.tree.flatten(pull)
        index = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(given))}
        places = tuple(index.get(id(a)) for a in arrays)
        kept = [a if place is None else None for a, place in zip(arrays, places, strict=True)]
        leaves, y_tree = jax.tree.flatten(y)
        shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves)
        return cls(kept, places, tree, (y_tree, shapes))

    def pull(self, given: PyTree, dy: PyTree) -> Any:
        """The gradients with respect to `given`."""
        leaves = jax.tree.leaves(given)
        arrays = [
            a if place is None else leaves[place]
            for a, place in zip(self.kept, self.places, strict=True)
        ]
        return self.tree.unflatten(arrays)(_cotangent(self.y, dy))


def _cotangent(y: Any, dy: PyTree) -> PyTree:
    """dy as `jax.vjp` expects it: in the dtypes of y, and float0 for integers."""
    tree, shapes = y

    def one(a: Any, d: Any) -> Any:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return np.zeros(a.shape, float0)
        return jnp.broadcast_to(jnp.asarray(d, a.dtype), a.shape)

    return tree.unflatten(map(one, shapes, tree.flatten_up_to(dy)))
