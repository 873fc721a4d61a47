"""What an optimizer does with a gradient: the end of a step of training."""

from typing import Any

import jax
import numpy as np

from fbp._layer import Key, Params, PyTree
from fbp.explainer._traced import Update
from fbp.step import State
from fbp.step._step import first_state, one_step


def updated(
    objective: Any,
    optimizer: Any,
    state: State | None,
    params: Params,
    batch: PyTree,
    key: Key,
    value: float,
    grads: Params,
) -> Update:
    """The update of a step, by the program that trains.

    Args:
      objective, batch: of the step.
      optimizer: any of optax's or fbp's.
      state: before it, with these params; None is the first one.
      params: before it.
      key: as a step takes it.
      value, grads: of the step.
    """
    before = first_state(params, optimizer.init(params)) if state is None else state
    after, _ = jax.jit(one_step(objective, optimizer))(before, batch, key)
    reached = jax.jit(objective.value)(after.params, batch, noise_of(key, before))
    change = jax.tree.map(_difference, after.params, before.params)
    foretold = value + sum(jax.tree.leaves(jax.tree.map(_product, grads, change)))
    return Update(change, jax.tree.map(np.asarray, after.params), float(reached), foretold)


def noise_of(key: Key, state: State | None) -> Key:
    """The key that a step draws its noise from: its number is folded in."""
    return None if key is None else jax.random.fold_in(key, 0 if state is None else state.step)


def _difference(after: Any, before: Any) -> np.ndarray:
    return np.asarray(after, np.float64) - np.asarray(before, np.float64)


def _product(d: Any, change: np.ndarray) -> float:
    if d.dtype == jax.dtypes.float0:  # of an integer, which nothing changes
        return 0.0
    return float((np.asarray(d, np.float64) * change).sum())
