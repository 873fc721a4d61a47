"""An optimizer's view of a part of the parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Params, PyTree
from fbp.ports._copies import longer, states_of


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parameters of a model in parts, each of which an optimizer can update alone.

    An optimizer may look at the names and the axes of parameters, as masks of weight decay do. So
    it is shown the whole tree whatever it is to update, with arrays of size 0 in the place of all
    other parts: what is computed for them is nothing.

    Attributes:
      optimizer: an optax optimizer of the whole.
      tree: the structure of the whole, a part a leaf.
      shapes: the parts, as shapes or arrays.
    """

    optimizer: Any
    tree: Any
    shapes: list[PyTree]

    def whole(self, chosen: dict[int, PyTree]) -> Params:
        """The whole tree, with arrays of size 0 in the place of all parts but these."""
        parts = [chosen[k] if k in chosen else empty(p) for k, p in enumerate(self.shapes)]
        return self.tree.unflatten(parts)

    def of(self, whole: Params) -> list[PyTree]:
        """The parts of a whole tree."""
        return self.tree.flatten_up_to(whole)

    def owned(self, k: int) -> list[bool]:
        """Which leaves of the optimizer's state are of part k: those that grow with its copies."""
        return [a.shape != b.shape for a, b in self._grown(k, 0)]

    def grows_by(self, k: int, axis: int) -> bool:
        """Whether the state that part k owns has, along an axis, what the arrays of k have."""
        sizes = {leaf.shape[axis] for leaf in jax.tree.leaves(self.shapes[k])}
        return all(
            a.ndim > axis and a.shape[axis] in sizes and b.shape == longer(a, axis).shape
            if owned
            else a.shape == b.shape
            for owned, (a, b) in zip(self.owned(k), self._grown(k, axis), strict=True)
        )

    def _grown(self, k: int, axis: int) -> list[tuple[Any, Any]]:
        """The leaves of the optimizer's state as they are, and with part k one entry longer."""
        every = dict(enumerate(self.shapes))
        grown = jax.tree.map(lambda a: longer(a, axis), self.shapes[k])
        return states_of(self.optimizer, self.whole(every), self.whole({**every, k: grown}))

    def state(self, state: PyTree, chosen: dict[int, PyTree]) -> PyTree:
        """The optimizer's state as it is of these parts alone."""
        alone = jax.eval_shape(self.optimizer.init, self.whole(chosen))

        def pick(leaf: Any, shape: Any) -> Any:
            return leaf if leaf.shape == shape.shape else jnp.zeros(shape.shape, shape.dtype)

        return jax.tree.map(pick, state, alone)

    def update(
        self, grads: dict[int, PyTree], state: PyTree, params: dict[int, PyTree]
    ) -> tuple[dict[int, PyTree], PyTree]:
        """The optimizer's updates of these parts, and the state that it leaves."""
        updates, state = self.optimizer.update(self.whole(grads), state, self.whole(params))
        parts = self.of(updates)
        return {k: parts[k] for k in grads}, state


@dataclasses.dataclass(frozen=True)
class OnePart:
    """An optax optimizer of one part: `Parts`' own, shown the others as empty."""

    parts: Parts
    k: int

    def init(self, params: PyTree) -> PyTree:
        return self.parts.optimizer.init(self.parts.whole({self.k: params}))

    def update(self, grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        k = self.k
        updates, state = self.parts.update({k: grads}, state, {k: params})
        return updates[k], state


def empty(part: PyTree) -> PyTree:
    """Arrays of the same axes and size 0; what has no axis is 0."""
    return jax.tree.map(lambda a: jnp.zeros((0, *a.shape[1:]) if a.ndim else (), a.dtype), part)
