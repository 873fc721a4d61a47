"""The training step: forward, loss, backward, update, as one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._microbatch import objective_of
from fbp._objective import Objective, ObjectiveLike
from fbp.step._clipped import Clipped
from fbp.step._in_backward import update_in_backward


class State(NamedTuple):
    """Everything a step changes.

    Attributes:
      params: the objective's parameters: of an `Objective`, `params.model` and `params.loss`.
      opt_state: the optimizer's state.
      step: how many updates were made, an int32 scalar.
    """

    params: Any
    opt_state: Any
    step: Array


def init_state(
    model: Layer, loss: Loss, optimizer: optax.GradientTransformation, key: Array
) -> State:
    """Returns the state that training starts from, its parameters drawn with `key`."""
    return state_of(Objective(model, loss).init(key), optimizer)


def state_of(params: Params, optimizer: optax.GradientTransformation) -> State:
    """Returns the state before the first update of these parameters."""
    # Copies: what is donated is gone, so it must be the state's alone. Some optimizers put the
    # params themselves, or one array twice, into their state; an initializer may return an array
    # that its author keeps.
    state = State(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    return jax.tree.map(lambda a: jnp.array(a, dtype=a.dtype), state)


def make_step(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
) -> Callable[..., tuple[State, Array]]:
    """Returns `step(state, batch, key=None) -> state, value`: one jitted program.

    The state is donated: the new one takes its place in memory, and the old one cannot be used
    again. `value` is the loss before the update. Noise is drawn with `key` and the step's number.

    For a small model a call costs more than its arithmetic: `make_steps` takes many at once, and
    `optax.flatten(optimizer)`, the same update of one long vector, saves another tenth.

    Args:
      model: a Layer from x to y.
      loss: a Loss of y and target.
      optimizer: any optax optimizer.
      microbatch: examples a part, to take each batch in parts (see `Microbatch`).
    """
    return step_of(objective_of(model, loss, microbatch), optimizer)


def make_steps(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
) -> Callable[..., tuple[State, Array]]:
    """Returns `steps(state, batches, key=None) -> state, values`: n steps in one `lax.scan`.

    The leaves of `batches` have a leading axis of size n. The same as n calls of `make_step`'s
    function with the same key, less the price of n - 1 calls: for a small model, most of its time.

    Args: as for `make_step`.
    """
    return steps_of(objective_of(model, loss, microbatch), optimizer)


def step_of(
    objective: ObjectiveLike, optimizer: Any, *, in_backward: bool = False
) -> Callable[..., tuple[State, Array]]:
    """`make_step` for an objective: `Objective`, `Microbatch`, or any other value with their
    methods, as `fbp.models.NextToken`. The state is that of `state_of(params, optimizer)`.

    With `in_backward=True` the optimizer runs inside the backward pass: the params and the state of
    every copy in a `Stack` are written as soon as the copy's gradient is known, so that gradients
    of one copy are alive at a time where a plain step holds those of all. The numbers are those of
    the plain step, to rounding, except that a step whose loss is not finite changes nothing.

    What it costs:

        a bounded norm    `fbp.Clipped(optimizer, norm)`: by the exact norm, one more backward; by
                          the previous step's, nothing
        a `Microbatch`    the gradient of all parts but the last is kept, as in a plain step; only
                          the last part's is not
        everything else   nothing

    The optimizer's update of an element of a Stack must depend on that element alone, as it does
    for SGD, Adam and their kin, with schedules, and with masks by name or by the number of axes.
    This is read from the optimizer's jaxpr: every equation with an array in it must be elementwise.
    Optimizers that take a norm, a mean or a product over a parameter, or that flatten it, are
    refused. In a program for one CPU, large arrays are updated a few rows at a time, where their
    rows divide, so that little lies beside them. A Stack is found inside Serial, Parallel, Sum,
    Residual, Remat and Tie; all other parameters are updated after the backward, by any optimizer.

    Args:
      objective: what to make small.
      optimizer: any optax optimizer, or `fbp.Clipped` of one.
      in_backward: whether each Stack's parameters are updated within its backward.

    Raises:
      ValueError: with `in_backward`, the optimizer's update of an element of a Stack depends on
        others; there is no Stack.
    """
    return jax.jit(_step(objective, optimizer, in_backward), donate_argnums=0)


def steps_of(
    objective: ObjectiveLike, optimizer: Any, *, in_backward: bool = False
) -> Callable[..., tuple[State, Array]]:
    """`make_steps` for an objective, as `step_of` is `make_step`."""
    step = _step(objective, optimizer, in_backward)

    def steps(state: State, batches: PyTree, key: Key = None) -> tuple[State, Array]:
        return lax.scan(lambda state, batch: step(state, batch, key), state, batches)

    return jax.jit(steps, donate_argnums=0)


def one_by_one(objective: ObjectiveLike, optimizer: Any) -> Callable[..., tuple[State, Array]]:
    """The same function as `steps_of`'s, by n calls of one step: for what XLA slows in a loop."""
    step = step_of(objective, optimizer)

    def steps(state: State, batches: PyTree, key: Key = None) -> tuple[State, Array]:
        values = []
        for i in range(jax.tree.leaves(batches)[0].shape[0]):
            state, value = step(state, jax.tree.map(lambda a, i=i: a[i], batches), key)
            values.append(value)
        return state, jnp.stack(values)

    return steps


def _step(
    objective: ObjectiveLike, optimizer: Any, in_backward: bool = False
) -> Callable[..., tuple[State, Array]]:
    supported = isinstance(optimizer, Clipped)
    update = (optimizer if supported else optax.with_extra_args_support(optimizer)).update

    def step(state: State, batch: PyTree, key: Key = None) -> tuple[State, Array]:
        params, opt_state, number = state
        if key is not None:
            key = jax.random.fold_in(key, number)
        if in_backward:
            params, opt_state, value, done = update_in_backward(
                objective, optimizer, params, opt_state, batch, key
            )
            return State(params, opt_state, number + done), value
        value, dparams = objective.value_and_grad(params, batch, key)
        updates, opt_state = update(
            dparams,
            opt_state,
            params,
            # For the optimizers that ask for more: Polyak steps, plateaus, line searches.
            value=value,
            grad=dparams,
            value_fn=lambda p: objective.value(p, batch, key),
        )
        params = optax.apply_updates(params, updates)
        return State(params, opt_state, number + 1), value

    return step
