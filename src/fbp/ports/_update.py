"""The optimizer inside the backward pass."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Key, Layer, Params, PyTree, require_layer
from fbp.combinators import Stack
from fbp.ports._copies import per_copy
from fbp.ports._squares import no_squares, sum_of_squares
from fbp.ports._update_if import update_if


class UpdateParams(NamedTuple):
    """The params of an `Update`.

    Attributes:
      params: the layer's own.
      state: the optimizer's.
      go: a bool; without it params and state stay as they are.
      grads: a gradient to add to the layer's, as of other parts of the batch; None for none.
      squares: the sum of squares of the gradient, which `backward` tells.
    """

    params: Params
    state: PyTree
    go: Array
    grads: Params | None = None
    squares: Array | None = None


@dataclasses.dataclass(frozen=True)
class Update(Layer):
    """Gives the next params in the place of dparams: the optimizer runs inside the backward.

        g                      = dparams of the layer
        next params and state  = optimizer(g, params, state)

    Around a `Stack` this happens within the reverse scan, copy by copy: the gradient of one copy is
    alive at a time, and params and state are written where they were read, if the caller gives them
    away (`donate_argnums`). The optimizer's update of a copy must depend on that copy alone, which
    is so for all that work element by element; here this is not checked. It is by
    `fbp.step_of(..., in_backward=True)`, which does this to whole models, and clips.

    Args:
      layer: any layer.
      optimizer: an optax optimizer.
      pieces: in how many pieces each array of a Stack's copy is updated, one after another and cut
        along the axis after that of copies. Until they are written, the new params and state of a
        piece lie beside the old ones. More than 1 is for optimizers that work element by element.

    Raises:
      ValueError: pieces is less than 1, or more and there is no Stack, or does not divide the axis
        that it cuts.

    Source: Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited
    Resources", ACL 2024, arXiv:2306.09782.
    """

    layer: Layer
    optimizer: Any
    pieces: int = 1

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if self.pieces < 1:
            raise ValueError(f"Update: expected 1 or more pieces, got {self.pieces}")
        if self.pieces > 1 and not isinstance(self.layer, Stack):
            raise ValueError(
                f"Update: expected a Stack where there are {self.pieces} pieces, got {self.layer}"
            )

    def init(self, key: Array) -> UpdateParams:
        params = self.layer.init(key)
        state = self.optimizer.init(params)
        return UpdateParams(params, state, jnp.asarray(True), squares=no_squares(params))

    def forward(self, params: UpdateParams, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(params.params, x, key)

    def backward(
        self, params: UpdateParams, x: PyTree, res: PyTree, dy: PyTree
    ) -> tuple[UpdateParams, PyTree]:
        if isinstance(self.layer, Stack) and self.layer.n:
            return self._in_scan(self.layer, params, res, dy)
        dparams, dx = self.layer.backward(params.params, x, res, dy)
        return self._next(params, dparams), dx

    def start(self, params: UpdateParams, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params.params, x, length)

    def steps(self, params: UpdateParams, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(params.params, x, state)

    def _next(self, old: UpdateParams, g: Params) -> UpdateParams:
        """The params and the state after one update."""
        if old.grads is not None:
            g = jax.tree.map(lambda a, b: (a + b).astype(b.dtype), old.grads, g)
        squares = sum_of_squares(g)
        params, state = update_if(old.go, self.optimizer, g, old.params, old.state)
        return old._replace(params=params, state=state, squares=squares)

    def _cut(self, stacked: PyTree) -> PyTree:
        """Stacked copies as stacked pieces, those of each copy one after another."""

        def cut(a: Array) -> Array:
            if self.pieces == 1:
                return a
            if a.ndim < 2 or a.shape[1] % self.pieces:
                raise ValueError(
                    f"Update: expected arrays with a second axis that {self.pieces} pieces divide, "
                    f"got shape {a.shape}"
                )
            return a.reshape(len(a) * self.pieces, a.shape[1] // self.pieces, *a.shape[2:])

        return jax.tree.map(cut, stacked)

    def _in_scan(
        self, stack: Stack, old: UpdateParams, res: PyTree, dy: PyTree
    ) -> tuple[UpdateParams, PyTree]:
        leaves: list[Array]
        tree: Any
        leaves, tree = jax.tree.flatten(old.state)
        copied = per_copy(self.optimizer, old.params)

        def state_of(stacked: list[Array]) -> PyTree:
            """The state, its leaves of one entry a copy taken from here."""
            stacked = list(stacked)
            return tree.unflatten(
                stacked.pop(0) if is_copied else leaf
                for is_copied, leaf in zip(copied, leaves, strict=True)
            )

        def stacked_of(state: PyTree) -> list[Array]:
            return [a for a, c in zip(jax.tree.leaves(state), copied, strict=True) if c]

        def take(walked: Any, i: Array, _: Params, g: Params) -> tuple[Any, None]:
            *whole, squares = walked
            cut = self._cut(whole)
            # One copy, with the axis of copies: an optimizer that looks at axes sees the same.
            g, grads = self._cut((jax.tree.map(lambda a: a[None], g), old.grads))

            def piece(c: Array | int, walked: Any) -> Any:
                params, stacked, squares = walked
                at = i * self.pieces + c

                def read(tree: PyTree, at: Array | int = at) -> PyTree:
                    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, at, 1), tree)

                p, s = read((params, stacked))
                one = self._next(
                    old._replace(params=p, state=state_of(s), grads=read(grads)), read(g, c)
                )
                new = one.params, stacked_of(one.state)
                params, stacked = jax.tree.map(
                    lambda a, b: lax.dynamic_update_slice_in_dim(a, b, at, 0),
                    (params, stacked),
                    new,
                )
                return params, stacked, squares + one.squares

            if self.pieces == 1:
                return piece(0, walked), None
            *cut, squares = lax.fori_loop(0, self.pieces, piece, (*cut, squares))
            whole = jax.tree.map(lambda a, b: a.reshape(b.shape), cut, whole)
            return (*whole, squares), None

        walked = old.params, stacked_of(old.state), no_squares(old.params)
        (params, stacked, squares), _, dx = stack.walk_back(
            lambda walked: walked[0], res, dy, walked, take
        )
        # What copies share, as the number of updates, moves once: as in an update of no copies.
        none, s = jax.tree.map(lambda a: a[:0], (old.params, stacked_of(old.state)))
        shared = self._next(old._replace(params=none, state=state_of(s), grads=None), none).state
        leaves = jax.tree.leaves(shared)
        return old._replace(params=params, state=state_of(stacked), squares=squares), dx
