"""Many training steps in one compiled program, with the same numbers however they are cut."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fbp._layer import Array, Key, PyTree
from fbp._tree import nbytes
from fbp.mesh import Layout
from fbp.step._step import State, all_finite, step_on

# Of one call: its batches in bytes, and its steps.
MOST_BYTES, MOST_STEPS = 2**25, 4096
# Up to this size in bytes, a copy of the state is kept while a call runs.
SMALL = 2**25


@dataclasses.dataclass(frozen=True)
class Taken:
    """What came of a call: the state, the loss of each step, and whether all went well.

    If not, the state is that before the step whose loss or gradient is not finite, and the last of
    the losses is that step's.
    """

    state: State
    losses: np.ndarray
    good: bool


class Steps:
    """Takes training steps, many in a call.

    One program takes any number of steps up to `most`: the number is an argument. Programs for
    several numbers might round differently, and a run would depend on where it was cut.

    A step whose loss or gradient is not finite must not change the state, and to look at every
    gradient costs a small model a quarter of its time. So a small state is copied, the steps are
    taken without a look, and if anything not finite came out they are taken again from the copy by
    a program that looks. The steps of a large state always look, which is little beside them.

    Args:
      objective, optimizer, in_backward: as for `fbp.step_of`.
      state, batch, key: of a step, or their shapes.
      most: the number of steps that no call exceeds.
      scan: whether the steps are one program; XLA runs some slower in a loop than one by one.
      layout: where arrays lie on a mesh, where there is one.
    """

    def __init__(
        self,
        objective: Any,
        optimizer: Any,
        state: State,
        batch: PyTree,
        key: Key,
        *,
        most: int = MOST_STEPS,
        scan: bool = True,
        in_backward: bool = False,
        layout: Layout | None = None,
    ):
        self.most = max(1, min(most, MOST_STEPS, MOST_BYTES // max(1, nbytes(batch))))
        self._key = key
        # The same of the last call, of fewer steps: its batches are filled up.
        self._shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((self.most, *a.shape), a.dtype), batch
        )
        self._copies = scan and nbytes(state) <= SMALL
        args: tuple[Any, ...] = jax.eval_shape(lambda: state), self._shapes, jnp.int32(0), key
        if layout is not None:
            batch = layout.shapes(batch, batch=True)
            args = layout.shapes(args[0]), layout.shapes(args[1], batch=True, steps=True), *args[2:]

        def compiled(run: Callable[..., Any], *args: Any) -> Any:
            return jax.jit(run, donate_argnums=0).lower(*args).compile()

        if self._copies:
            step = step_on(layout, objective, optimizer, in_backward=in_backward)
            self._run: Any = compiled(_all(step, self.most), *args)
        else:
            # In the backward, a step guards itself.
            guard = not in_backward
            step = step_on(layout, objective, optimizer, in_backward=in_backward, guard=guard)
            if scan:
                self._run = compiled(_while_good(step, self.most), *args)
            else:
                self._run = _one_by_one(compiled(step, args[0], batch, key))

        def careful(*given: Any) -> tuple[State, Array]:
            step = step_on(layout, objective, optimizer, guard=True)
            return compiled(_while_good(step, self.most), *args)(*given)

        self._careful = careful  # compiled only when it is needed
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
        self._finite = jax.jit(all_finite)
        # A gradient that is not finite may stay in the optimizer's state alone, as where only its
        # sign is used. Some begin with infinity there.
        fresh = jax.tree.leaves(state)[0]
        self._looks_at_all = isinstance(fresh, jax.ShapeDtypeStruct) or bool(
            self._finite(state.opt_state)
        )

    def start(self, state: State, step: int, batches: PyTree) -> Callable[[], Taken]:
        """Begins to take the steps of these batches; what it returns waits for them.

        The state is donated; its number is `step`.
        """
        n = jax.tree.leaves(batches)[0].shape[0]
        kept = self._copy(state) if self._copies else None
        padded = jax.tree.map(_padded, batches, self._shapes)
        state, losses = self._run(state, padded, jnp.int32(n), self._key)

        def wait() -> Taken:
            taken = np.asarray(losses)[:n]
            if kept is not None:
                seen = (state.params, state.opt_state) if self._looks_at_all else state.params
                if np.isfinite(taken).all() and bool(self._finite(seen)):
                    return Taken(state, taken, True)
                return _taken(*self._careful(kept, padded, jnp.int32(n), self._key), step, n)
            return _taken(state, taken, step, n)

        return wait


def _taken(state: State, losses: Any, step: int, n: int) -> Taken:
    done = int(state.step) - step
    return Taken(state, np.asarray(losses)[: min(n, done + 1)], done == n)


def _padded(a: Any, shape: jax.ShapeDtypeStruct) -> Any:
    if a.shape == shape.shape and a.dtype == shape.dtype:
        return a
    whole = np.zeros(shape.shape, shape.dtype)
    whole[: a.shape[0]] = a
    return whole


def _all(step: Callable[..., Any], most: int) -> Callable[..., tuple[State, Array]]:
    """All of n steps."""

    def run(state: State, batches: PyTree, n: Array, key: Key) -> tuple[State, Array]:
        def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
            state, losses = carry
            state, value = step(state, _at(batches, i), key)
            return state, losses.at[i].set(value.astype(losses.dtype))

        return lax.fori_loop(0, n, body, (state, jnp.zeros(most)))

    return run


def _while_good(step: Callable[..., Any], most: int) -> Callable[..., tuple[State, Array]]:
    """At most n steps, up to the first that makes no update."""

    def run(state: State, batches: PyTree, n: Array, key: Key) -> tuple[State, Array]:
        first = state.step

        def goes_on(carry: tuple[Array, State, Array]) -> Array:
            i, state, _ = carry
            return (i < n) & (state.step == first + i)

        def body(carry: tuple[Array, State, Array]) -> tuple[Array, State, Array]:
            i, state, losses = carry
            state, value = step(state, _at(batches, i), key)
            return i + 1, state, losses.at[i].set(value.astype(losses.dtype))

        _, state, losses = lax.while_loop(goes_on, body, (jnp.int32(0), state, jnp.zeros(most)))
        return state, losses

    return run


def _one_by_one(step: Callable[..., Any]) -> Callable[..., tuple[State, np.ndarray]]:
    """At most n calls of one step, up to the first that makes no update."""

    def run(state: State, batches: PyTree, n: Array, key: Key) -> tuple[State, np.ndarray]:
        first, values = int(state.step), []
        for i in range(int(n)):
            batch = jax.tree.map(lambda a, i=i: a[i], batches)
            state, value = step(state, batch, key)
            values.append(float(value))
            if int(state.step) == first + i:
                break
        return state, np.array(values)

    return run


def _at(batches: PyTree, i: Array) -> PyTree:
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, 0, keepdims=False), batches)
