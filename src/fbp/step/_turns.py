"""Interleaved timing of steps, so that a slow period of the machine affects all programs alike."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Key, PyTree
from fbp.step._step import State


def take_turns(
    programs: dict[int, Any], state: State, batch: PyTree, key: Key, rounds: int
) -> tuple[dict[int, float], bool]:
    """Returns the median seconds per step of each program, and whether all losses were finite."""
    rng = np.random.default_rng(0)
    seconds: dict[int, list[float]] = {i: [] for i in programs}
    finite = True
    for number in range(rounds + 1):
        for i in rng.permutation(list(programs)):
            began = time.perf_counter()
            state, value = programs[i](state, batch, key)
            finite &= bool(jnp.isfinite(jax.block_until_ready((state, value))[1]))
            if number:  # The first round is a warm-up.
                seconds[i].append(time.perf_counter() - began)
    return {i: statistics.median(s) for i, s in seconds.items()}, finite
