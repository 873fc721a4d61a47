"""Data in arrays: its batches, and what is measured on it."""

import numbers
from collections.abc import Callable

import jax
import numpy as np

from fbp._errors import InputError
from fbp._layer import Array, PyTree
from fbp._objective import Objective, ObjectiveParams
from fbp._order import rows_of
from fbp.losses import SoftmaxCrossEntropy
from fbp.train._drawn import require_numbers
from fbp.train._watch import Metrics


def batches(
    x: np.ndarray, target: np.ndarray, batch: int, seed: int
) -> Callable[[int, int], PyTree]:
    """Returns `draw(start, stop)`: batches of shuffled epochs, a function of seed and steps alone.

    The arrays may be memory-mapped: a draw reads its rows only, in a time that does not depend on
    how many there are.

    Raises:
      InputError: x and target are not arrays of numbers of as many rows, or batch is not 1 or more.
    """
    if isinstance(batch, bool) or not isinstance(batch, numbers.Integral) or batch < 1:
        raise InputError(f"batches: expected batch to be a whole number, 1 or more, got {batch!r}")
    for name, a in (("x", x), ("target", target)):
        require_numbers(f"batches: expected {name} to be", a)
    n = len(x) if x.ndim else 0
    if not n or target.shape[:1] != (n,):
        raise InputError(
            "batches: expected x and target of as many rows, one or more, got shapes "
            f"{x.shape} and {target.shape}"
        )

    def draw(start: int, stop: int) -> PyTree:
        rows = rows_of(start * batch, stop * batch, n, seed)
        rows = rows.reshape(stop - start, batch)
        return x[rows], target[rows]

    # For a run to say of which rows the batch of a step is.
    draw.rows = lambda step: rows_of(step * batch, (step + 1) * batch, n, seed)
    return draw


def evaluator(
    objective: Objective,
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray] | None,
    most: int = 4096,
) -> Callable[[ObjectiveParams], Metrics]:
    """Returns `evaluate(params)`: loss and accuracy on at most `most` training rows, spread evenly,
    and val_loss and val_accuracy on all held-out rows. The accuracies are for classification."""
    every = max(1, -(-len(train[0]) // most))
    parts = {"": jax.device_put(tuple(a[::every] for a in train))}
    if held_out is not None:
        parts["val_"] = jax.device_put(held_out)
    classifies = isinstance(objective.loss, SoftmaxCrossEntropy)

    @jax.jit
    def measure(params: ObjectiveParams, parts: PyTree) -> dict[str, Array]:
        metrics = {}
        for prefix, (x, target) in parts.items():
            y, _ = objective.model.forward(params.model, x)
            metrics[f"{prefix}loss"] = objective.loss.value(params.loss, y, target)
            if classifies:
                metrics[f"{prefix}accuracy"] = (y.argmax(-1) == target).mean()
        return metrics

    def evaluate(params: ObjectiveParams) -> Metrics:
        measured = measure(params, parts)
        order = ("loss", "accuracy", "val_loss", "val_accuracy")
        return {name: float(measured[name]) for name in order if name in measured}

    return evaluate
