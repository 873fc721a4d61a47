"""The training step as one compiled program, and many steps in one `lax.scan`."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fbp._layer import Array, Key, Params, PyTree
from fbp._objective import ObjectiveLike
from fbp.ports._update_of import update_of
from fbp.step._in_backward import update_in_backward
from fbp.step._mistakes import require_no_noise, require_own_state, require_parts, require_state
from fbp.step._scaled import LossScaled


class State(NamedTuple):
    """Everything that a step changes.

    Attributes:
      params: the objective's parameters; for an `Objective`, `params.model` and `params.loss`.
      opt_state: the optimizer's state.
      step: number of updates made, an int32 scalar.
    """

    params: Any
    opt_state: Any
    step: Array


def state_of(params: Params, optimizer: optax.GradientTransformation) -> State:
    """Returns the initial state of training for these parameters."""
    return first_state(params, optimizer.init(params))


def first_state(params: Params, opt_state: PyTree) -> State:
    """The state before the first step.

    Copies, since the state is donated and must not share an array with anything else. Some
    optimizers put the params themselves, or one array twice, into their state; an initializer may
    return an array that other code holds.
    """
    state = State(params, opt_state, jnp.zeros((), jnp.int32))
    return jax.tree.map(lambda a: jnp.array(a, dtype=a.dtype), state)


def step_of(
    objective: ObjectiveLike,
    optimizer: Any,
    *,
    has_aux: bool = False,
    in_backward: bool = False,
    mesh: Any = None,
) -> Callable[..., tuple[State, Any]]:
    """Returns `step(state, batch, key=None) -> state, value`: one jitted program.

    The state, that of `state_of(params, optimizer)`, is donated: the new one reuses its memory, and
    the old one cannot be used again. `value` is the loss before the update. Noise is drawn from
    `key` and the step's number.

    For a small model a call costs more than its arithmetic: `steps_of` takes many steps in one
    call, and `optax.flatten(optimizer)`, the same update of one long vector, saves another tenth.

    With `has_aux=True` the step returns (value, aux) in the place of value: aux is what the
    objective's `aux` reports, from the forward that the gradient needs anyway.

    With `in_backward=True` the optimizer runs inside the backward pass: the params and the state of
    each copy in a `Stack` are updated as soon as the copy's gradient is known, so that only the
    gradient of one copy is alive at a time, while a plain step holds those of all copies. The
    numbers are those of the plain step, up to rounding, except that a step whose loss is not finite
    changes nothing.

    Its cost:

        a bounded norm    with `fbp.Clipped(optimizer, norm)`: one more backward if by the exact
                          norm, nothing if by that of the previous step
        a `Microbatch`    the gradient of all parts but the last is kept, as in a plain step; only
                          that of the last part is not
        everything else   nothing

    The optimizer's update of an element of a Stack must depend on that element alone, as it does
    for SGD, Adam and their kin, with schedules, and with masks by name or by the number of axes.
    This is read from the jaxpr of its update. Optimizers that take a norm, a mean or a product over
    a parameter, that flatten it, or that use the loss or the number of parameters are refused. In a
    program for one CPU, large arrays are updated a few rows at a time, where their rows divide, so
    that little lies beside them. A Stack is found inside Serial, Parallel, Sum, Residual, Remat and
    Tie; all other parameters are updated after the backward.

    Args:
      objective: the objective to minimize: an `Objective`, a `Microbatch`, a
        `fbp.models.NextToken`, or any other value with their methods.
      optimizer: any optax optimizer, or `fbp.Clipped`, `fbp.SpikesSkipped`,
        `fbp.LossScaled` or `fbp.Averaged` of one.
      has_aux: whether the step reports what the objective's `aux` computes.
      in_backward: whether each Stack's parameters are updated within its backward.
      mesh: a `jax.sharding.Mesh`, or a `fbp.mesh.Layout` with rules of its own: the step of several
        devices, whose arrays stay where they lie. The state is that of `Layout.state`, or of
        `Layout.move`, and the batch that of `Layout.put`.

    Raises:
      ValueError: with `in_backward`, the optimizer's update of an element of a Stack depends on
        others; there is no Stack. A layer draws noise and there is no key. `has_aux`, and the
        objective has no aux.
    """
    step = step_on(mesh, objective, optimizer, has_aux, in_backward)
    return jax.jit(step, donate_argnums=0)


def steps_of(
    objective: ObjectiveLike,
    optimizer: Any,
    *,
    has_aux: bool = False,
    in_backward: bool = False,
    mesh: Any = None,
) -> Callable[..., tuple[State, Any]]:
    """Returns `steps(state, batches, key=None) -> state, values`: n steps in one `lax.scan`.

    The leaves of `batches` have a leading axis of size n. The result is that of n calls of the step
    of `step_of` with the same key, without the overhead of n - 1 calls, which is most of the time
    of a small model.

    Args: as for `step_of`.
    """
    step = step_on(mesh, objective, optimizer, has_aux, in_backward)

    def steps(state: State, batches: PyTree, key: Key = None) -> tuple[State, Any]:
        return lax.scan(lambda state, batch: step(state, batch, key), state, batches)

    return jax.jit(steps, donate_argnums=0)


def step_on(
    mesh: Any,
    objective: ObjectiveLike,
    optimizer: Any,
    has_aux: bool = False,
    in_backward: bool = False,
    guard: bool = False,
) -> Callable[..., tuple[State, Any]]:
    """The step of `step_of`, not jitted, on a mesh where there is one; with `guard`, guarded."""
    if mesh is None:
        return one_step(objective, optimizer, has_aux, in_backward, guard)
    from fbp.mesh import Layout

    if isinstance(mesh, Layout):  # of another form of this objective, perhaps, as without parts
        layout = dataclasses.replace(mesh, objective=objective)
    else:
        layout = Layout(objective, mesh)

    def on_mesh(state: State, batch: PyTree, key: Key = None) -> tuple[State, Any]:
        placed = layout.placed(batch, in_backward)
        step = one_step(placed, optimizer, has_aux, in_backward, guard)
        with jax.sharding.use_abstract_mesh(layout.abstract_mesh):
            state, reported = step(layout.pinned(state), layout.pinned(batch, batch=True), key)
            return layout.pinned(state), layout.pinned(reported)

    return on_mesh


def one_step(
    objective: ObjectiveLike,
    optimizer: Any,
    has_aux: bool = False,
    in_backward: bool = False,
    guard: bool = False,
) -> Callable[..., tuple[State, Any]]:
    """The step of `step_of`, not jitted.

    With `guard=True` a step whose loss or gradient is not finite changes nothing, its number
    neither. A `LossScaled` looks after its gradients itself; in the backward, the loss decides.
    """
    require_parts(objective, optimizer, has_aux, in_backward)
    update = update_of(optimizer)
    options: dict[str, Any] = {"has_aux": True} if has_aux else {}

    def step(state: State, batch: PyTree, key: Key = None) -> tuple[State, Any]:
        require_state(optimizer, state)
        params, opt_state, number = state
        if key is not None:
            key = jax.random.fold_in(key, number)
        else:
            require_no_noise(objective, batch)
        if in_backward:
            params, opt_state, value, done = update_in_backward(
                objective, optimizer, params, opt_state, batch, key, **options
            )
            return State(params, opt_state, number + done), value
        scale = {"scale": opt_state.scale} if isinstance(optimizer, LossScaled) else {}
        reported, dparams = objective.value_and_grad(params, batch, key, **options, **scale)
        value = reported[0] if has_aux else reported

        def updated() -> State:
            try:
                updates, after = update(
                    dparams,
                    opt_state,
                    params,
                    # For optimizers that need more arguments: Polyak steps, plateaus, line
                    # searches.
                    value=value,
                    grad=dparams,
                    value_fn=lambda p: objective.value(p, batch, key),
                )
            except Exception as error:
                require_own_state(optimizer, params, opt_state, error)
                raise
            return State(optax.apply_updates(params, updates), after, number + 1)

        if not guard:
            return updated(), reported
        good = jnp.isfinite(value)
        if not isinstance(optimizer, LossScaled):
            good &= all_finite(dparams)
        # A `cond` updates in place; a choice between old and new numbers would copy all of them.
        return lax.cond(good, updated, lambda: state), reported

    return step


def all_finite(tree: PyTree) -> Array:
    """Whether all floats of a tree are finite."""
    # x - x is 0 for a finite x and NaN for others; the sum of one pass over each array.
    parts = [jnp.sum(a - a) for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.isfinite(sum(parts)) if parts else jnp.asarray(True)
