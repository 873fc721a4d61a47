"""A training step that runs its optimizer inside the backward pass."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params, PyTree, add, scaled
from fbp._microbatch import Microbatch
from fbp.combinators import Parallel, Remat, Residual, Serial, Stack, Sum
from fbp.combinators._map import map_held
from fbp.ports import Tie, Update, UpdateParams
from fbp.ports._squared_norm import SquaredNorm
from fbp.ports._squares import sum_of_squares
from fbp.ports._update_if import update_if
from fbp.step._clipped import EXACT, PREVIOUS, Clipped
from fbp.step._parts import OnePart, Parts
from fbp.step._pieces import pieces_of
from fbp.step._separable import require_separable

# Layers that hand params down, and dparams up, as they are.
_PASS_ON = (Parallel, Remat, Residual, Serial, Sum, Tie)


def update_in_backward(
    objective: Any, optimizer: Any, params: Params, opt_state: PyTree, batch: PyTree, key: Key
) -> tuple[Params, PyTree, Array, Array]:
    """One step; returns the next params and optimizer state, the loss, and whether it was taken.

    Each `Stack` is updated within its reverse scan; every other parameter after the backward, as in
    a plain step. If the loss, or the exact norm of a `Clipped`, is not finite, all stays as it is.
    """
    clip = optimizer if isinstance(optimizer, Clipped) else None
    earlier, share = None, jnp.ones(())
    if isinstance(objective, Microbatch):
        # The gradient of all parts but the last, which goes along into the last one's backward.
        earlier, (share, batch, key) = objective.but_last(params, batch, key)
        objective = objective.objective
    for needed in ("model", "forward", "backward"):
        if not hasattr(objective, needed):
            raise TypeError(f"in_backward: expected an objective with {needed}, got {objective!r}")
    value, res = objective.forward(params, batch, key)
    before = None
    if earlier is not None:
        value, before = earlier[0] + share * value, earlier[1]

    back = _WayBack.of(objective, optimizer if clip is None else clip.optimizer, params)
    go, scale = jnp.isfinite(value), jnp.ones(())
    if clip is not None and clip.by == EXACT:
        norm = back.norm(params, before, batch, res, share)
        go, scale = go & jnp.isfinite(norm), clip.scale(norm)
    elif clip is not None:
        scale = clip.scale(opt_state.norm)
    before = None if before is None else scaled(scale, before)
    state = opt_state if clip is None else clip.inner(opt_state)
    params, state, norm = back.update(params, state, go, before, batch, res, scale * share)
    if clip is not None and clip.by == PREVIOUS:
        state = clip.with_norm(state, jnp.where(go, norm / scale, opt_state.norm), opt_state)
    return params, state, value, go


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Place:
    """Stands in the params for those of the Stack of this number."""

    number: int


@dataclasses.dataclass(frozen=True)
class _Stand(Layer):
    """Stands in a model for the Stack of this number, to see where combinators put its params."""

    number: int

    def init(self, key: Array) -> Any:
        return _Place(self.number)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _WayBack:
    """The backward of an objective, with a port around each Stack of its model.

    Attributes:
      objective: an `Objective`, or what has its methods and its `model`.
      parts: its params, each Stack's as one part and every other array as one.
      stacks: which part is each Stack's.
      pieces: in how many pieces each copy of that part is updated.
    """

    objective: Any
    parts: Parts
    stacks: list[int]
    pieces: dict[int, int]

    @classmethod
    def of(cls, objective: Any, optimizer: Any, params: Params) -> "_WayBack":
        stood = _with_ports(objective, lambda number, stack: _Stand(number))
        try:
            places = jax.eval_shape(stood.init, jax.random.key(0))
        except ValueError as error:  # a Tie that reaches into a Stack
            raise ValueError(
                f"in_backward: expected ties outside of every Stack: {error}"
            ) from error
        tree: Any
        nodes, tree = jax.tree.flatten(places, is_leaf=lambda node: isinstance(node, _Place))
        place_of = {node.number: k for k, node in enumerate(nodes) if isinstance(node, _Place)}
        parts = Parts(optimizer, tree, tree.flatten_up_to(params))
        stacks = [place_of[number] for number in range(len(place_of))]
        if not stacks:
            raise ValueError(
                "in_backward: expected a model with a Stack inside Serial, Parallel, Sum, "
                "Residual, Remat or Tie, found none: take a plain step"
            )
        require_separable(parts, stacks)
        return cls(objective, parts, stacks, {k: pieces_of(parts, k) for k in stacks})

    def norm(
        self, params: Params, before: Params | None, batch: PyTree, res: PyTree, dvalue: Array
    ) -> Array:
        """The norm of the gradient, by a backward that keeps none of a Stack."""
        ports = _with_ports(self.objective, lambda number, stack: SquaredNorm(stack))
        wrapped = self._wrapped(params, dict.fromkeys(self.stacks, ()), jnp.asarray(True), before)
        found = self.parts.of(ports.backward(wrapped, batch, res, dvalue))
        squares = sum((found[k] for k in self.stacks), jnp.zeros(()))
        return jnp.sqrt(squares + sum_of_squares(self._others(found, before)))

    def update(
        self,
        params: Params,
        state: PyTree,
        go: Array,
        before: Params | None,
        batch: PyTree,
        res: PyTree,
        dvalue: Array,
    ) -> tuple[Params, PyTree, Array]:
        """The next params and state, and the norm of the gradient."""
        parts, own = self.parts, self.parts.of(params)

        def port(number: int, stack: Stack) -> Update:
            k = self.stacks[number]
            return Update(stack, OnePart(parts, k), self.pieces[k])

        ports = _with_ports(self.objective, port)
        states = {k: parts.state(state, {k: own[k]}) for k in self.stacks}
        wrapped = self._wrapped(params, states, go, before)
        found = parts.of(ports.backward(wrapped, batch, res, dvalue))

        grads = self._others(found, before)
        rest = {k: own[k] for k in grads}
        state_of_rest = parts.state(state, rest)
        squares = sum_of_squares(grads) + sum(found[k].squares for k in self.stacks)

        rest, next_state = update_if(go, parts, grads, rest, state_of_rest)
        for k in self.stacks:
            rest[k] = found[k].params
        tree: Any
        leaves, tree = jax.tree.flatten(next_state)
        for k in self.stacks:
            mine = jax.tree.leaves(found[k].state)
            for i, owned in enumerate(parts.owned(k)):
                leaves[i] = mine[i] if owned else leaves[i]
        return parts.whole(rest), tree.unflatten(leaves), jnp.sqrt(squares)

    def _wrapped(
        self, params: Params, states: dict[int, PyTree], go: Array, before: Params | None
    ) -> Params:
        """The params, those of each Stack as its port takes them."""
        own = self.parts.of(params)
        earlier = [None] * len(own) if before is None else self.parts.of(before)
        for k in self.stacks:
            own[k] = UpdateParams(own[k], states[k], go, earlier[k])
        return self.parts.tree.unflatten(own)

    def _others(self, found: list[PyTree], before: Params | None) -> dict[int, PyTree]:
        """The gradients of the parts that are no Stack's."""
        others = {k: g for k, g in enumerate(found) if k not in self.stacks}
        if before is not None:
            earlier = self.parts.of(before)
            others = {k: add(g, earlier[k]) for k, g in others.items()}
        return others


def _with_ports(objective: Any, port: Callable[[int, Stack], Layer]) -> Any:
    """The objective, `port(number, stack)` in the place of each Stack of its model."""
    numbers = itertools.count()

    def put(layer: Layer) -> Layer:
        if isinstance(layer, Stack) and layer.n:
            return port(next(numbers), layer)
        return map_held(put, layer) if isinstance(layer, _PASS_ON) else layer

    return dataclasses.replace(objective, model=put(objective.model))
