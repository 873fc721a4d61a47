"""How a language model is trained and measured: its optimizer, its loss, its bits a byte."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fbp._layer import Array, Params
from fbp._objective import ObjectiveLike
from fbp._tree import path_of
from fbp.text import fixed_windows
from fbp.text._windows import Windows
from fbp.train._loop import Metrics
from fbp.train.text._task import TextTask

WEIGHT_DECAY = 0.1
MOST_GRADIENT = 1.0
# How much is read to measure a loss: enough for two digits after the point of its bits.
TOKENS_OF_TRAIN, TOKENS_OF_VAL = 2**14, 2**15


def text_optimizer(lr: float, steps: int) -> Any:
    """AdamW on gradients of a norm of at most 1, its rate rising at first, then along a cosine.

    Adam's averages know little in the first steps, so those are small. Only matrices decay: biases
    and the gains of norms do not make a function complicated.
    """
    warmup = min(100, steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(
        lr / (warmup + 1), lr, warmup, steps, end_value=lr / 10
    )

    def decays(params: Params) -> Params:
        # By their names: a Stack gives biases and gains an axis more, as matrices have.
        return jax.tree.map_with_path(lambda keys, _: _is_matrix(path_of(keys)), params)

    return optax.chain(
        optax.clip_by_global_norm(MOST_GRADIENT),
        optax.adamw(schedule, b2=0.99, weight_decay=WEIGHT_DECAY, mask=decays),
    )


def _is_matrix(path: str) -> bool:
    """Whether a parameter is neither a bias nor a gain of a norm."""
    return not path.endswith(".b") and "norm" not in path


def text_evaluator(
    objective: ObjectiveLike, task: TextTask, batch: int
) -> Callable[[Params], Metrics]:
    """Returns `evaluate(params)`: the loss on windows of the text to train on, val_loss on some of
    the text held out, and what that is in bits a byte:

        bits_per_byte = val_loss / ln 2 * tokens / bytes

    which can be compared whatever the tokenizer is.
    """
    parts = {
        "loss": _in_batches(_windows_of(task.train, task.context, TOKENS_OF_TRAIN), batch),
        "val_loss": _in_batches(_windows_of(task.val, task.context, TOKENS_OF_VAL), batch),
    }

    @jax.jit
    def measure(params: Params, parts: dict[str, tuple[Array, Array]]) -> dict[str, Array]:
        return {
            name: lax.map(lambda part: objective.value(params, part), windows).mean()
            for name, windows in parts.items()
        }

    def evaluate(params: Params) -> Metrics:
        measured = {name: float(value) for name, value in measure(params, parts).items()}
        bits = measured["val_loss"] / math.log(2) / task.bytes_per_token
        return {**measured, "bits_per_byte": bits}

    return evaluate


def _windows_of(tokens: np.ndarray, context: int, most: int) -> Windows:
    """Fixed windows that hold at most so many tokens, or the one that holds more."""
    return fixed_windows(tokens, context, max(1, most // context))


def _in_batches(windows: Windows, batch: int) -> tuple[Array, Array]:
    """Windows (W, T) as (W / batch, batch, T): what one batch holds at a time is enough."""
    batch = min(batch, len(windows[0]))
    whole = len(windows[0]) // batch * batch
    ids, labels = (jnp.asarray(a[:whole].reshape(-1, batch, a.shape[-1])) for a in windows)
    return ids, labels
