"""The optimizer and the metrics of language models: loss, val_loss and bits per byte."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Params, PyTree
from fbp.models import NextToken
from fbp.train._loop import Metrics
from fbp.train._recipe import Recipe
from fbp.train.text._learned import Batch, measured
from fbp.train.text._task import TextTask

WEIGHT_DECAY = 0.1
MOST_GRADIENT = 1.0
# The tokens used to measure a loss: enough for two decimals of its bits per byte.
TOKENS_OF_TRAIN, TOKENS_OF_VAL = 2**14, 2**15


def text_recipe(steps: int) -> Recipe:
    """AdamW on gradients clipped to a norm of 1; the rate warms up, then falls along a cosine.

    The warm-up keeps steps small while Adam's averages rest on few gradients. Weight decay applies
    to matrices only, not to biases and the gains of norms, as these add little to the complexity
    of a function.
    """
    return Recipe(
        warmup=min(100, steps // 10),
        end=0.1,
        weight_decay=WEIGHT_DECAY,
        decay="matrices",
        clip=MOST_GRADIENT,
        options={"b2": 0.99},
    )


def text_optimizer(lr: float, steps: int) -> Any:
    """The optimizer of `text_recipe`."""
    return text_recipe(steps).made(lr, steps)


def text_evaluator(objective: NextToken, task: TextTask, batch: int) -> Callable[[Params], Metrics]:
    """Returns `evaluate(params)`: the loss on windows of the training text, val_loss on windows of
    the held-out text, and bits_per_byte, which can be compared between tokenizers:

        bits_per_byte = val_loss / ln 2 * tokens / bytes
    """
    parts = {
        "loss": _in_batches(measured(task, False, TOKENS_OF_TRAIN), batch),
        "val_loss": _in_batches(measured(task, True, TOKENS_OF_VAL), batch),
    }

    def mean(params: Params, parts: list[PyTree]) -> Array:
        # The last windows may be fewer, and rows of documents have not as many labels each.
        values = [lax.map(lambda p: objective.value(params, p), part) for part in parts]
        weights = [lax.map(objective.weight, part) for part in parts]
        v, w = jnp.concatenate(values), jnp.concatenate(weights)
        return (w * v).sum() / jnp.maximum(w.sum(), 1)

    @jax.jit
    def measure(params: Params, parts: dict[str, Any]) -> dict[str, Array]:
        return {name: mean(params, batches) for name, batches in parts.items()}

    def evaluate(params: Params) -> Metrics:
        measured = {name: float(value) for name, value in measure(params, parts).items()}
        bits = measured["val_loss"] / math.log(2) / task.bytes_per_token
        return {**measured, "bits_per_byte": bits}

    return evaluate


def _in_batches(windows: Batch, batch: int) -> list[PyTree]:
    """Windows (W, T) as (W / batch, batch, T), so that memory is bounded by one batch; what is left
    over as (1, W mod batch, T)."""
    n = len(windows[1])
    batch = min(batch, n)
    whole = n // batch * batch

    def cut(start: int, stop: int, size: int) -> PyTree:
        return jax.tree.map(
            lambda a: jnp.asarray(a[start:stop].reshape(-1, size, a.shape[-1])), windows
        )

    rest = [cut(whole, n, n - whole)] if whole < n else []
    return [cut(0, whole, batch), *rest]
