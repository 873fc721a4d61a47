"""The training loop, the same for every model: forward, loss, backward, update, in chunks."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp._layer import Array, Params, PyTree
from fbp._objective import Objective, ObjectiveLike, ObjectiveParams
from fbp.losses import SoftmaxCrossEntropy
from fbp.step._step import State, one_by_one, state_of, steps_of

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of a training run.

    Attributes:
      params: the last good parameters.
      step: the number of updates that led to them.
      metrics: the last metrics.
      trouble: why it stopped early, in one line, or None.
      interrupted: whether it was stopped by Ctrl-C.
    """

    params: Params
    step: int
    metrics: Metrics
    trouble: str | None = None
    interrupted: bool = False


def make_optimizer(lr: float, steps: int, weight_decay: float | None) -> Any:
    """AdamW with a rate that falls to 0 along a cosine; if `weight_decay` is None, plain SGD."""
    if weight_decay is None:
        return optax.sgd(lr)
    return optax.adamw(optax.cosine_decay_schedule(lr, steps), weight_decay=weight_decay)


def fit(
    objective: ObjectiveLike,
    params: Params,
    optimizer: Any,
    draw: Callable[[int, int], PyTree],
    evaluate: Callable[[Params], Metrics],
    *,
    steps: int,
    chunks: int,
    log: Callable[[int, Metrics], None],
    scan: bool = True,
) -> Fit:
    """Trains in chunks of scanned steps, and evaluates at the end of each.

    If a loss is not finite, the chunk is run again from its start up to, but without, the update
    that made it so: the parameters returned are the last whose loss was finite. Ctrl-C keeps the
    parameters of the last evaluation.

    Args:
      objective: the objective to minimize.
      params: the initial parameters.
      optimizer: any optax optimizer.
      draw: `draw(start, stop)` returns the batches of these steps, stacked.
      evaluate: returns the metrics of params, "loss" among them.
      steps: the number of updates.
      chunks: the number of chunks the steps are divided into.
      log: called with the number of updates and the metrics, first at 0.
      scan: whether the steps of a chunk are one program.

    Raises:
      FloatingPointError: the loss is not finite before the first update.
    """
    run = steps_of(objective, optimizer) if scan else one_by_one(objective, optimizer)
    metrics = evaluate(params)
    if not _finite(metrics):
        raise FloatingPointError(f"the loss is {metrics['loss']} before the first update")
    safe, done = state_of(params, optimizer), 0
    cuts = sorted({round(steps * i / chunks) for i in range(chunks + 1)})
    try:
        log(0, metrics)
        for start, stop in itertools.pairwise(cuts):
            # A copy, because `run` donates its state and `safe` may be needed for a replay.
            state, losses = run(jax.tree.map(jnp.copy, safe), draw(start, stop))
            after = evaluate(state.params)
            bad = np.flatnonzero(~np.isfinite(np.asarray(losses)))
            if bad.size or not _finite(after):
                # A step's loss is computed before its update: if the loss of step `bad` is not
                # finite, the update before it made it so.
                last = start + (int(bad[0]) if bad.size else stop - start) - 1
                return _last_good(run, draw, evaluate, safe, start, max(start, last), metrics, log)
            safe, done, metrics = state, stop, after
            log(stop, metrics)
    except KeyboardInterrupt:
        trouble = f"interrupted: the weights after step {done} are kept"
        return Fit(safe.params, done, metrics, trouble, interrupted=True)
    return Fit(safe.params, steps, metrics)


def _last_good(
    run: Callable[[State, PyTree], tuple[State, Array]],
    draw: Callable[[int, int], PyTree],
    evaluate: Callable[[Params], Metrics],
    safe: State,
    start: int,
    last: int,
    metrics: Metrics,
    log: Callable[[int, Metrics], None],
) -> Fit:
    """Replays updates start..last-1, or fewer, until all metrics are finite."""
    for step in range(last, start - 1, -1):
        params = safe.params
        if step > start:
            params = run(jax.tree.map(jnp.copy, safe), draw(start, step))[0].params
            metrics = evaluate(params)
        if _finite(metrics):
            break
    if step > start:
        log(step, metrics)
    return Fit(
        params,
        step,
        metrics,
        f"update {step + 1} makes the loss non-finite: stopped before it, "
        f"the weights after update {step} are kept (loss {metrics['loss']:.3g}); "
        "a lower --lr may help",
    )


def batches(
    x: np.ndarray, target: np.ndarray, batch: int, seed: int
) -> Callable[[int, int], PyTree]:
    """Returns `draw(start, stop)`: batches of shuffled epochs, a function of the steps alone."""
    n = len(x)

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(n)

    def draw(start: int, stop: int) -> PyTree:
        first, last = start * batch // n, (stop * batch - 1) // n
        rows = np.concatenate([order(epoch) for epoch in range(first, last + 1)])
        rows = rows[start * batch - first * n :][: (stop - start) * batch]
        rows = rows.reshape(stop - start, batch)
        return x[rows], target[rows]

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


def _finite(metrics: Metrics) -> bool:
    return all(math.isfinite(value) for value in metrics.values())
