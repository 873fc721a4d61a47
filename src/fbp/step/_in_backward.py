"""A training step that runs its optimizer inside the backward pass."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import scaled
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._microbatch import Microbatch
from fbp.combinators import Each, Graph, On, Parallel, Remat, Residual, Serial, Stack, Sum
from fbp.combinators._map import map_held
from fbp.ports import Tie, Update, UpdateParams
from fbp.ports._elementwise import why_not_alone, why_not_elementwise
from fbp.ports._part import Part
from fbp.ports._squared_norm import SquaredNorm
from fbp.ports._squares import sum_of_squares
from fbp.ports._update import pieces_of, summed
from fbp.ports._update_if import update_if
from fbp.step._clipped import EXACT, PREVIOUS, Clipped

# Layers that hand params to the layers they hold and return their dparams unchanged; only Tie adds
# gradients, those of tied params, and a Graph those of a layer that several of its nodes share.
_PASS_ON = (Each, Graph, On, Parallel, Remat, Residual, Serial, Sum, Tie)


def update_in_backward(
    objective: Any,
    optimizer: Any,
    params: Params,
    opt_state: PyTree,
    batch: PyTree,
    key: Key,
    has_aux: bool = False,
) -> tuple[Params, PyTree, Any, Array]:
    """Takes one step; returns params, optimizer state, the loss, and whether the update was made.

    Each `Stack` is updated within its reverse scan, all other parameters after the backward, as in
    a plain step. If the loss, or the exact norm of a `Clipped`, is not finite, nothing is updated.
    """
    clip = optimizer if isinstance(optimizer, Clipped) else None
    earlier, share, options = None, jnp.ones(()), {"has_aux": True} if has_aux else {}
    if isinstance(objective, Microbatch):
        # The gradient of all microbatches but the last; it is added while the last runs backward.
        earlier, (share, batch, key) = objective.but_last(params, batch, key, **options)
        objective = objective.objective
    for needed in ("model", "forward", "backward"):
        if not hasattr(objective, needed):
            raise TypeError(f"in_backward: expected an objective with {needed}, got {objective!r}")
    if isinstance(share, dict):  # several losses, each with a share of its own
        options, share = {**options, "share": share}, jnp.ones(())
    reported, res = objective.forward(params, batch, key, **options)
    before = None
    if earlier is not None:
        reported = jax.tree.map(lambda a, b: a + share * b, earlier[0], reported)
        before = earlier[1]
    value = reported[0] if has_aux else reported

    state = opt_state if clip is None else clip.inner(opt_state)
    back = _Backward.of(objective, optimizer if clip is None else clip.optimizer, params, state)
    go, scale = jnp.isfinite(value), jnp.ones(())
    if clip is not None and clip.by == EXACT:
        norm = back.norm(params, before, batch, res, share)
        go, scale = go & jnp.isfinite(norm), clip.scale(norm)
    elif clip is not None:
        scale = clip.scale(opt_state.norm)
    before = None if before is None else scaled(scale, before)
    params, state, norm = back.update(params, state, go, before, batch, res, scale * share)
    if clip is not None and clip.by == PREVIOUS:
        state = clip.with_norm(state, jnp.where(go, norm / scale, opt_state.norm), opt_state)
    return params, state, reported, go


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Slot:
    """Stands in the params for those of the Stack of this number."""

    number: int


@dataclasses.dataclass(frozen=True)
class _Marker(Layer):
    """Replaces a Stack, so that `model.init` shows where the params of that Stack lie."""

    number: int

    def init(self, key: Array) -> Any:
        return _Slot(self.number)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _Backward:
    """The backward of an objective, with a port around each Stack of its model.

    Attributes:
      objective: an `Objective`, or a value with its methods and a `model`.
      tree: the structure of its params with parts as leaves: all params of a Stack are one part,
        every other array is a part.
      stacks: the index of each Stack's part.
      optimizers: the optimizer of each part.
    """

    objective: Any
    tree: Any
    stacks: list[int]
    optimizers: list[Part]

    @classmethod
    def of(cls, objective: Any, optimizer: Any, params: Params, state: PyTree) -> "_Backward":
        marked = _with_ports(objective, lambda number, stack: _Marker(number))
        try:
            slots = jax.eval_shape(marked.init, jax.random.key(0))
        except ValueError as error:  # a Tie that reaches into a Stack
            raise ValueError(
                f"in_backward: expected ties outside of every Stack: {error}"
            ) from error
        tree: Any
        nodes, tree = jax.tree.flatten(slots, is_leaf=lambda node: isinstance(node, _Slot))
        slot_of = {node.number: k for k, node in enumerate(nodes) if isinstance(node, _Slot)}
        if not slot_of:
            raise ValueError(
                "in_backward: expected a model with a Stack inside Serial, Parallel, Sum, "
                "Residual, Remat or Tie, found none: take a plain step"
            )
        refused = (
            "in_backward: expected an optimizer whose update of each element of a Stack depends on "
            "that element alone, as sgd's and adam's do; this one {} (for clipping by the global "
            "norm, give fbp.Clipped(optimizer, norm))"
        )
        try:
            whole = Part.whole(optimizer, params, state)
        except ValueError as error:
            raise ValueError(refused.format(f"does not: {error}")) from error
        parts, leaves = tree.flatten_up_to(params), itertools.count()
        optimizers = [whole.only([next(leaves) for _ in jax.tree.leaves(p)]) for p in parts]
        stacks = [slot_of[number] for number in range(len(slot_of))]
        every, states = jax.tree.leaves(params), jax.tree.leaves(state)
        for k in stacks:
            pieces = {1, pieces_of(jax.tree.leaves(parts[k]))}
            if why_not := why_not_elementwise(optimizers[k], every, states, pieces):
                raise ValueError(refused.format(why_not))
        others = [n for k in range(len(parts)) if k not in stacks for n in optimizers[k].numbers]
        for part in (*(optimizers[k] for k in stacks), whole.only(others)):
            if why_not := why_not_alone(part, every, states):
                raise ValueError(refused.format(why_not))
        return cls(objective, tree, stacks, optimizers)

    def norm(
        self, params: Params, before: Params | None, batch: PyTree, res: PyTree, dvalue: Array
    ) -> Array:
        """Returns the norm of the gradient, by a backward that keeps no gradient of a Stack."""
        ports = _with_ports(self.objective, lambda number, stack: SquaredNorm(stack))
        wrapped = self._wrapped(params, (), jnp.asarray(True), before)
        found = self.tree.flatten_up_to(ports.backward(wrapped, batch, res, dvalue))
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
        """Returns the next params and state, and the norm of the gradient."""
        parts = self.tree.flatten_up_to(params)
        state_tree: Any
        leaves, state_tree = jax.tree.flatten(state)
        ports = _with_ports(
            self.objective,
            lambda number, stack: Update(stack, self.optimizers[self.stacks[number]]),
        )
        wrapped = self._wrapped(params, leaves, go, before)
        found = self.tree.flatten_up_to(ports.backward(wrapped, batch, res, dvalue))

        grads = self._others(found, before)
        squares = sum_of_squares(grads) + sum(found[k].squares for k in self.stacks)
        rest = self.optimizers[0].only([n for k in grads for n in self.optimizers[k].numbers])

        def one(old: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
            return rest.update(list(grads.values()), *old)

        new, leaves = update_if(go, one, ([parts[k] for k in grads], leaves))
        for k in self.stacks:
            parts[k] = found[k].params
            mine = found[k].state
            leaves = [mine[i] if self.optimizers[k].owns(i) else s for i, s in enumerate(leaves)]
        for k, part in zip(grads, new, strict=True):
            parts[k] = part
        return self.tree.unflatten(parts), state_tree.unflatten(leaves), jnp.sqrt(squares)

    def _wrapped(self, params: Params, state: Any, go: Array, before: Params | None) -> Params:
        """Returns the params, with those of each Stack as the `UpdateParams` of its port."""
        parts = self.tree.flatten_up_to(params)
        earlier = [None] * len(parts) if before is None else self.tree.flatten_up_to(before)
        for k in self.stacks:
            parts[k] = UpdateParams(parts[k], state, go, earlier[k])
        return self.tree.unflatten(parts)

    def _others(self, found: list[PyTree], before: Params | None) -> dict[int, PyTree]:
        """Returns the gradients of all parts outside Stacks, by the index of the part."""
        earlier = [None] * len(found) if before is None else self.tree.flatten_up_to(before)
        return {k: summed(earlier[k], g) for k, g in enumerate(found) if k not in self.stacks}


def _with_ports(objective: Any, port: Callable[[int, Stack], Layer]) -> Any:
    """Returns the objective with each Stack of its model replaced by `port(number, stack)`."""
    numbers = itertools.count()

    def put(layer: Layer) -> Layer:
        if isinstance(layer, Stack) and layer.n:
            return port(next(numbers), layer)
        if not isinstance(layer, _PASS_ON) or (isinstance(layer, Graph) and layer.shares):
            return layer
        return map_held(put, layer)

    return dataclasses.replace(objective, model=put(objective.model))
