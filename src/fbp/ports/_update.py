"""Update: runs the optimizer inside the backward pass."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._platform import has_several_cpus
from fbp._require import require_layer
from fbp.combinators import Stack
from fbp.ports._elementwise import why_not_elementwise
from fbp.ports._part import Part
from fbp.ports._squares import no_squares, sum_of_squares
from fbp.ports._update_if import update_if

# On a CPU a copy is updated in pieces of a few rows, with at least this many numbers of its largest
# array each, so that the temporaries are those of one piece, not of a whole copy. Smaller pieces
# would not save a significant amount of memory.
_FEWEST_NUMBERS = 2**18


class UpdateParams(NamedTuple):
    """The params of an `Update`.

    Attributes:
      params: params of the layer.
      state: state of the optimizer.
      go: a bool; if False, params and state are not changed.
      grads: a gradient to add to that of the layer, such as that of other parts of the batch, or
        None.
      squares: the sum of squares of the gradient, set by `backward`.
    """

    params: Params
    state: PyTree
    go: Array
    grads: Params | None = None
    squares: Array | None = None


@dataclasses.dataclass(frozen=True)
class Update(Layer):
    """Returns the next params in place of dparams: the optimizer runs inside the backward.

        g                      = dparams of the layer
        next params and state  = optimizer(g, params, state)

    Around a `Stack` this happens within the reverse scan, copy by copy: the gradient of only one
    copy is alive at a time, and params and state are updated in-place if the caller donates them
    (`donate_argnums`). `fbp.step_of(..., in_backward=True)` applies this to the Stacks of a model.

    Args:
      layer: any layer.
      optimizer: an optax optimizer. Around a Stack, its update must be elementwise.

    Raises:
      ValueError: around a Stack, the optimizer's update of an element depends on others.

    Source: Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited
    Resources", ACL 2024, arXiv:2306.09782.
    """

    layer: Layer
    optimizer: Any

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

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
            return _update_in_scan(self.layer, self._part(params), params, res, dy)
        dparams, dx = self.layer.backward(params.params, x, res, dy)
        g = summed(params.grads, dparams)

        def update(old: tuple[Params, PyTree]) -> tuple[Params, PyTree]:
            updates, state = self.optimizer.update(g, old[1], old[0])
            return optax.apply_updates(old[0], updates), state

        new, state = update_if(params.go, update, (params.params, params.state))
        return params._replace(params=new, state=state, squares=sum_of_squares(g)), dx

    def recompute(self, params: UpdateParams, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(params.params, x, res)

    def start(self, params: UpdateParams, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params.params, x, length)

    def steps(self, params: UpdateParams, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(params.params, x, state)

    def _part(self, params: UpdateParams) -> Part:
        """Returns the optimizer of these params, which may be part of a larger tree."""
        if isinstance(self.optimizer, Part):
            return self.optimizer
        part = Part.whole(self.optimizer, params.params, params.state)
        leaves, state = jax.tree.leaves(params.params), jax.tree.leaves(params.state)
        if why_not := why_not_elementwise(part, leaves, state, {1, pieces_of(leaves)}):
            raise ValueError(
                "Update: expected an optimizer whose update of each element depends on that "
                f"element alone; this one {why_not}"
            )
        return part


def summed(earlier: Params | None, g: Params) -> Params:
    """Returns g plus the gradient of earlier parts of the batch, in the dtypes of g."""
    if earlier is None:
        return g
    return jax.tree.map(lambda a, b: (a + b).astype(b.dtype), earlier, g)


def _update_in_scan(
    stack: Stack, part: Part, old: UpdateParams, res: PyTree, dy: PyTree
) -> tuple[UpdateParams, PyTree]:
    """Runs the backward of a Stack and updates each copy as soon as its gradient is known."""
    tree: Any
    state_tree: Any
    state, state_tree = jax.tree.flatten(old.state)
    params, tree = jax.tree.flatten(old.params)
    owned = [i for i in range(len(state)) if part.owns(i)]

    def next_of(g: list[Array], params: list[Array], stacked: list[Array]) -> list[list[Array]]:
        """Returns the next params, and the next leaves of the state that belong to them."""

        def one(was: list[list[Array]]) -> list[list[Array]]:
            whole = list(state)
            for i, leaf in zip(owned, was[1], strict=True):
                whole[i] = leaf
            new, whole = part.update(g, was[0], whole)
            return [new, [whole[i] for i in owned]]

        return update_if(old.go, one, [params, stacked])

    def take(walked: Any, i: Array, _: Params, g: Params) -> tuple[Any, None]:
        earlier = jax.tree.map(lambda a: a[i], old.grads)
        g = summed(earlier, g)
        *arrays, squares = walked
        leaves = [leaf[None] for leaf in jax.tree.leaves(g)]
        in_rows = functools.partial(_rewrite, next_of, pieces_of(params))
        new = lax.platform_dependent(
            leaves, arrays, i, cpu=in_rows, default=functools.partial(_rewrite, next_of, 1)
        )
        return (*new, squares + sum_of_squares(g)), None

    walked = params, [state[i] for i in owned], no_squares(old.params)
    (new, stacked, squares), _, dx = stack.walk_back(
        lambda walked: tree.unflatten(walked[0]), res, dy, walked, take
    )
    # State that all parameters share, such as a count of updates, is updated once.
    shared = update_if(old.go, lambda state: part.only(()).update([], [], state)[1], state)
    for i, leaf in zip(owned, stacked, strict=True):
        shared[i] = leaf
    new_params = tree.unflatten(new)
    return old._replace(params=new_params, state=state_tree.unflatten(shared), squares=squares), dx


def _rewrite(
    next_of: Any, pieces: int, g: list[Array], stacked: list[list[Array]], i: Array
) -> list[list[Array]]:
    """Returns params and state with copy i updated in this many pieces, one after another."""

    def cut(a: Array) -> Array:
        """Splits the copies along the first axis of a into pieces, in order."""
        return a if pieces == 1 else a.reshape(len(a) * pieces, a.shape[1] // pieces, *a.shape[2:])

    def piece(c: Array | int, whole: list[list[Array]]) -> list[list[Array]]:
        def read(a: Array, at: Array | int = i * pieces + c) -> Array:
            return lax.dynamic_slice_in_dim(a, at, 1)

        new = next_of([read(a, c) for a in cut_g], *jax.tree.map(read, whole))
        return jax.tree.map(
            lambda a, b: lax.dynamic_update_slice_in_dim(a, b, i * pieces + c, 0), whole, new
        )

    cut_g, whole = jax.tree.map(cut, (g, stacked))
    whole = piece(0, whole) if pieces == 1 else lax.fori_loop(0, pieces, piece, whole)
    return jax.tree.map(lambda a, b: a.reshape(b.shape), whole, stacked)


def pieces_of(stacked: list[Array]) -> int:
    """Returns the number of pieces in which each copy is updated on a CPU.

    It is 1 if there are several CPU devices, since the axis to split may be sharded over them.
    """
    if has_several_cpus() or any(leaf.ndim < 2 for leaf in stacked):
        return 1
    rows = math.gcd(*(leaf.shape[1] for leaf in stacked))
    most = max((math.prod(leaf.shape[1:]) for leaf in stacked), default=0) // _FEWEST_NUMBERS
    return max(c for c in range(1, max(most, 1) + 1) if rows % c == 0)
