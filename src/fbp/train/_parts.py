"""An optimizer's view of a part of the parameters."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fbp._layer import Params, PyTree
from fbp.ports._update import longer, states_of


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
        return [a.shape != b.shape for a, b in self._grown(k)]

    def grows_by_copies(self, k: int) -> bool:
        """Whether the state of part k has one entry for each of its copies, and no other order."""
        copies = {(leaf.shape[0],) for leaf in jax.tree.leaves(self.shapes[k])}
        grown = [(a.shape, b.shape) for a, b in self._grown(k) if a.shape != b.shape]
        return all(a[:1] in copies and b == (a[0] + 1, *a[1:]) for a, b in grown)

    def _grown(self, k: int) -> list[tuple[Any, Any]]:
        """The leaves of the optimizer's state as they are, and with one more copy in part k."""
        every = dict(enumerate(self.shapes))
        more = {**every, k: jax.tree.map(longer, self.shapes[k])}
        return states_of(self.optimizer, self.whole(every), self.whole(more))

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


_STEPS = 12


def require_separable(parts: Parts, stacks: list[int]) -> None:
    """Raises ValueError unless the update of one copy of a Stack depends on that copy alone.

    A trial: some updates of small random parameters, whole and copy by copy, must be the same. The
    gradients are of very different sizes, for norms are bounded, and blocks scaled, only above
    some; and there are several steps, for some optimizers only move after a few.
    """
    rng = np.random.default_rng(0)

    def small(a: Any, lead: tuple[int, ...] = ()) -> np.ndarray:
        shape = (2, *(min(d, 130) for d in a.shape[1:])) if a.ndim else ()
        sizes = 10.0 ** rng.uniform(-3, 3, (*lead, *(1,) * len(shape)))
        if lead:
            sizes[len(sizes) // 2] *= 1e6
        return np.asarray(rng.normal(size=(*lead, *shape)) * sizes, a.dtype)

    def draw(*lead: int) -> dict[int, PyTree]:
        each = enumerate(parts.shapes)
        return {k: jax.tree.map(lambda a: small(a, lead), part) for k, part in each}

    trial = jax.jit(functools.partial(_is_separable, parts, stacks))
    reason: Exception | None = None
    try:
        with jax.ensure_compile_time_eval():
            separable = all(map(parts.grows_by_copies, stacks))
            separable = separable and bool(trial(draw(), draw(_STEPS)))
    except Exception as error:  # whatever an optimizer cannot do with a part of the parameters
        separable, reason = False, error
    if not separable:
        raise ValueError(
            "in_backward: expected an optimizer whose update of each copy in a Stack depends on "
            "that copy alone, as elementwise ones do; this one "
            + (
                f"cannot update a part of the parameters: {reason}"
                if reason
                else "takes norms or other sums over parameters (for clipping by the global norm, "
                "give fbp.Clipped(optimizer, norm))"
            )
        ) from reason


def _is_separable(
    parts: Parts, stacks: list[int], params: dict[int, PyTree], grads: dict[int, PyTree]
) -> jax.Array:
    def updates(params: dict[int, PyTree], grads: dict[int, PyTree]) -> dict[int, PyTree]:
        """Of all steps, stacked."""

        def step(carry: Any, grads: dict[int, PyTree]) -> tuple[Any, dict[int, PyTree]]:
            state, params = carry
            found, state = parts.update(grads, state, params)
            return (state, optax.apply_updates(params, found)), found

        start = parts.optimizer.init(parts.whole(params)), params
        return lax.scan(step, start, grads, length=_STEPS)[1]

    def copy(i: int, axis: int, part: PyTree) -> PyTree:
        return jax.tree.map(lambda a: lax.slice_in_dim(a, i, i + 1, axis=axis), part)

    def others(parts: dict[int, PyTree]) -> dict[int, PyTree]:
        return {k: part for k, part in parts.items() if k not in stacks}

    whole = updates(params, grads)
    pairs = [(updates(others(params), others(grads)), others(whole))]
    for k in stacks:
        for i in (0, 1):
            alone = updates({k: copy(i, 0, params[k])}, {k: copy(i, 1, grads[k])})
            pairs.append((alone, {k: copy(i, 1, whole[k])}))
    same = [
        (jnp.abs(a - b) <= 1e-3 * (jnp.abs(a) + jnp.abs(b))).all()
        for one, other in pairs
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return jnp.stack(same).all()
