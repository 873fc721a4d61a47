"""Older names, which `fbp` still resolves with a warning."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from fbp._layer import Array, Layer, Loss
from fbp._microbatch import objective_of
from fbp._objective import Objective
from fbp.step._step import State, state_of, step_of, steps_of


def init_state(
    model: Layer, loss: Loss, optimizer: optax.GradientTransformation, key: Array
) -> State:
    """Returns `state_of(Objective(model, loss).init(key), optimizer)`."""
    return state_of(Objective(model, loss).init(key), optimizer)


def make_step(
    model: Layer, loss: Loss, optimizer: Any, *, microbatch: int | None = None
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns `step_of(Objective(model, loss), optimizer)`."""
    return step_of(objective_of(model, loss, microbatch), optimizer)


def make_steps(
    model: Layer, loss: Loss, optimizer: Any, *, microbatch: int | None = None
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns `steps_of(Objective(model, loss), optimizer)`."""
    return steps_of(objective_of(model, loss, microbatch), optimizer)
