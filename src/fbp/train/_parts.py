"""An optimizer's view of a part of the parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Params, PyTree


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
        """Which leaves of the optimizer's state are of part k: those that grow with it."""
        every = dict(enumerate(self.shapes))
        more = {**every, k: jax.tree.map(longer, self.shapes[k])}
        states = [jax.eval_shape(self.optimizer.init, self.whole(p)) for p in (every, more)]
        pairs = zip(*map(jax.tree.leaves, states), strict=True)
        return [a.shape != b.shape for a, b in pairs]

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


def longer(a: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array with one entry more of its first axis."""
    return jax.ShapeDtypeStruct((a.shape[0] + 1, *a.shape[1:]), a.dtype)


def require_separable(parts: Parts, stacks: list[int]) -> None:
    """Raises unless the update of one copy of a Stack depends on that copy alone.

    Two updates of small random parameters, whole and copy by copy, must be the same.
    """
    rng = np.random.default_rng(0)

    def small(a: Any) -> Any:
        shape = (2, *(min(d, 130) for d in a.shape[1:])) if a.ndim else ()
        # Of very different sizes: norms are bounded, and blocks scaled, only above some size.
        return (rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3)).astype(a.dtype)

    shapes = [jax.tree.map(small, part) for part in parts.shapes]
    probe = dataclasses.replace(parts, shapes=shapes)
    grads = [[jax.tree.map(small, part) for part in parts.shapes] for _ in range(2)]

    def run(shapes: list[PyTree], grads: list[list[PyTree]], chosen: list[int]) -> list[PyTree]:
        params = {k: shapes[k] for k in chosen}
        state, seen = parts.optimizer.init(probe.whole(params)), []
        for step in grads:
            updates, state = probe.update({k: step[k] for k in chosen}, state, params)
            seen.append(updates)
        return seen

    @jax.jit
    def differs(shapes: list[PyTree], grads: list[list[PyTree]]) -> jax.Array:
        whole = run(shapes, grads, list(range(len(shapes))))
        wrong = [jnp.zeros((), bool)]
        rest = [k for k in range(len(shapes)) if k not in stacks]
        for chosen, copy in [(rest, slice(None)), *(([k], slice(i, i + 1)) for k in stacks for i in (0, 1))]:
            cut = jax.tree.map(lambda a: a[copy] if chosen != rest else a, (shapes, grads))
            for one, every in zip(run(*cut, chosen), whole, strict=True):
                for k in chosen:
                    mine = jax.tree.map(lambda a: a[copy] if chosen != rest else a, every[k])
                    for a, b in zip(jax.tree.leaves(one[k]), jax.tree.leaves(mine), strict=True):
                        wrong.append((jnp.abs(a - b) > 1e-3 * (jnp.abs(a) + jnp.abs(b))).any())
        return jnp.stack(wrong).any()

    with jax.ensure_compile_time_eval():
        found = bool(differs(shapes, grads))
    if found:
        raise ValueError(
            "in_backward: expected an optimizer whose update of each copy in a Stack depends on "
            "that copy alone, as elementwise ones do; this one takes norms or other sums over "
            "parameters (for clipping by the global norm, give fbp.Clipped(optimizer, norm))"
        )
