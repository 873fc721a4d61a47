"""The small networks of the learn page: where they start, and what fbp makes of their first steps.

The page trains them by rules of its own, and compares its parameters with these after each step.
"""

import base64
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp import models
from fbp._layer import Array, Params
from fbp._objective import Objective
from fbp.losses import MeanSquaredError
from fbp.step import state_of, step_of
from fbp.train import TASKS

# The steps of a trace. Its arithmetic is float32, the page's is float64: they drift apart slowly.
STEPS = 20
# Of the neuron: small steps, and steps that are too large.
RATES = 0.01, 0.25


def trace(objective: Objective, params: Params, batch: Any, rate: float) -> Any:
    """The loss before each step of gradient descent, and the parameters before and after each."""
    optimizer = optax.sgd(rate)
    step, state = step_of(objective, optimizer), state_of(params, optimizer)
    losses, seen = [], [jax.tree.map(np.asarray, params)]
    for _ in range(STEPS):
        state, value = step(state, batch)
        losses.append(float(value))
        # The next step reuses the memory of these.
        seen.append(jax.tree.map(np.array, state.params))
    return losses, seen


def neuron_traces(x: Array, target: float) -> list[dict[str, Any]]:
    """Steps of y = w x + b by each rate."""
    objective = Objective(models.neuron(), MeanSquaredError())
    found = []
    for rate in RATES:
        params = objective.init(jax.random.key(0))
        losses, seen = trace(objective, params, (x, jnp.float32(target)), rate)
        steps = [[float(p.model["w"]), float(p.model["b"])] for p in seen]
        found.append({"rate": rate, "losses": losses, "steps": steps})
    return found


def curve_fit() -> dict[str, Any]:
    """40 points of a wave, for 16 hidden units."""
    task = TASKS["curve"]()
    x, target = (a[task.train[0][:, 0].argsort()][::4] for a in task.train)
    near = np.abs(x[:, 0]) <= 2
    return _fit((1, 16, 1), task, x[near], target[near], rate=0.05, seed=0)


def spiral_fit() -> dict[str, Any]:
    """160 points of two spirals, for 24 hidden units."""
    task = TASKS["spiral"]()
    x, target = (a[::2] for a in task.train)
    return _fit((2, 24, 2), task, x, target, rate=0.5, seed=2)


def _fit(sizes: Any, task: Any, x: Any, target: Any, *, rate: float, seed: int) -> dict[str, Any]:
    objective = Objective(models.mlp(sizes), task.loss())
    params = objective.init(jax.random.key(seed))
    losses, seen = trace(objective, params, (jnp.asarray(x), jnp.asarray(target)), rate)
    return {
        "sizes": list(sizes),
        "rate": rate,
        "x": letters(x),
        "target": letters(target),
        "losses": losses,
        "steps": letters([np.concatenate(_in_order(p.model), axis=None) for p in seen]),
    }


def _in_order(params: dict[str, dict[str, np.ndarray]]) -> list[np.ndarray]:
    """The arrays as the page keeps them: w and b of each layer, from the first to the last."""
    return [params[layer][name] for layer in ("dense_1", "dense_2") for name in ("w", "b")]


def letters(a: Any) -> str:
    """An array of float32 as base64."""
    return base64.b64encode(np.asarray(a, "<f4").tobytes()).decode()
