"""The training loop, the same for every model: forward, loss, backward, update, in chunks."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp._layer import Array, Key, Params, PyTree
from fbp._objective import Objective, ObjectiveLike, ObjectiveParams
from fbp.losses import SoftmaxCrossEntropy
from fbp.step._step import State, state_of
from fbp.train._order import rows_of
from fbp.train._steps import Steps, Taken
from fbp.train._watch import FAR, IN_A_ROW, Metrics, Watch

# What a call of compiled steps should take: short enough to stop soon, long enough that the time
# between two calls does not count.
SECONDS_A_CALL = 0.5


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of a training run.

    Attributes:
      params: the parameters of the best evaluation, by the metric that is watched.
      step: the number of updates that led to them.
      metrics: of that evaluation.
      last: the state after the last update.
      watch: what was watched.
      trouble: why it stopped early, in one line, or None.
      ended: why it ended before all steps without a fault, or None.
      interrupted: whether it was stopped by Ctrl-C.
    """

    params: Params
    step: int
    metrics: Metrics
    last: State
    watch: Watch
    trouble: str | None = None
    ended: str | None = None
    interrupted: bool = False

    @property
    def last_step(self) -> int:
        """The number of updates that were made."""
        return int(self.last.step)


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
    eval_every: int,
    log: Callable[[int, Metrics], None],
    key: Key = None,
    watch: str | None = None,
    patience: int | None = None,
    scan: bool = True,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Trains, and keeps the parameters of the best evaluation.

    Steps are taken many in a call of about half a second; the numbers do not depend on how they are
    cut. A step whose loss or gradient is not finite is not taken, and ends the run; so does a loss
    that has gone far above the best. Ctrl-C finishes the call at hand.

    Args:
      objective: the objective to minimize.
      params: the initial parameters.
      optimizer: any optax optimizer.
      draw: `draw(start, stop)` returns the batches of these steps, stacked.
      evaluate: returns the metrics of params, "loss" among them.
      steps: the number of updates.
      eval_every: the number of updates between evaluations; there is one before the first update
        and one after the last.
      log: called with the number of updates and the metrics of each evaluation.
      key: for layers that draw noise in training; each step folds its number into it.
      watch: the metric whose lowest value is the best: by default "val_loss" where there is one,
        or else "loss".
      patience: ends the run after this many evaluations that are not the best.
      scan: whether the steps of a call are one program.
      progress: called between evaluations with the number of updates and the loss of the last.

    Raises:
      FloatingPointError: the loss is not finite before the first update.
    """
    state, step = state_of(params, optimizer), 0
    del params
    metrics = evaluate(state.params)
    if not _finite(metrics):
        raise FloatingPointError(f"the loss is {metrics['loss']} before the first update")
    watched = Watch(watch or ("val_loss" if "val_loss" in metrics else "loss"), patience)
    run = Steps(objective, optimizer, state, _first(draw), key, scan=scan)
    best, best_metrics = _copied(state.params), metrics
    watched = watched.seen(0, metrics)
    trouble, ended, interrupted = None, None, False
    pace = _Pace()

    def cut(start: int) -> int:
        """Where a call that begins at this step ends."""
        at_evaluation = (start // eval_every + 1) * eval_every
        return min(start + pace.steps, start + run.most, at_evaluation, steps)

    try:
        log(0, metrics)
        ahead = draw(0, cut(0)) if steps else None
        while step < steps and trouble is None and ended is None and not interrupted:
            stop = cut(step)
            if jax.tree.leaves(ahead)[0].shape[0] != stop - step:
                ahead = draw(step, stop)
            began = time.perf_counter()
            wait = run.start(state, step, ahead)
            # Drawn while the device computes.
            try:
                ahead = draw(stop, cut(stop)) if stop < steps else None
            except KeyboardInterrupt:
                interrupted = True
            taken: Taken = wait()
            state = taken.state
            if not taken.good:
                step += len(taken.losses) - 1
                trouble = _not_finite(step, float(taken.losses[-1]), watched)
                break
            step = stop
            pace.took(len(taken.losses), time.perf_counter() - began)
            if step % eval_every and step < steps:
                if progress is not None:
                    progress(step, float(taken.losses[-1]))
                continue
            metrics = evaluate(state.params)
            if not _finite(metrics):
                trouble = _not_finite(step, math.nan, watched)
                break
            watched = watched.seen(step, metrics)
            if watched.best_step == step:
                best = None  # so that its memory is free for the next one
                best, best_metrics = _copied(state.params), metrics
            log(step, metrics)
            if watched.diverges:
                trouble = _diverges(step, metrics, watched)
            elif not watched.is_patient:
                ended = (
                    f"no better {watched.name} in {watched.patience} evaluations: ended after "
                    f"step {step}"
                )
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        trouble = f"interrupted after step {step}: the weights after step {watched.best_step}, the "
        trouble += f"best by {watched.name}, are kept"
    return Fit(best, watched.best_step, best_metrics, state, watched, trouble, ended, interrupted)


class _Pace:
    """How many steps a call should take: few at first, then what `SECONDS_A_CALL` allows."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        allowed = int(steps * SECONDS_A_CALL / max(seconds, 1e-9))
        self.steps = max(1, min(allowed, 4 * self.steps))


def _first(draw: Callable[[int, int], PyTree]) -> PyTree:
    """The shapes and dtypes of a batch."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], jax.dtypes.canonicalize_dtype(a.dtype)),
        draw(0, 1),
    )


def _copied(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)


def _not_finite(step: int, loss: float, watched: Watch) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
    return (
        f"step {step + 1}: {what}: stopped before its update; the weights after step "
        f"{watched.best_step}, the best by {watched.name}, are kept; a lower --lr may help"
    )


def _diverges(step: int, metrics: Metrics, watched: Watch) -> str:
    return (
        f"step {step}: {watched.name} {metrics[watched.name]:.3g} has been {FAR:g} times the first "
        f"one's size above the best at {IN_A_ROW} evaluations in a row: stopped; the weights after "
        f"step {watched.best_step}, the best, are kept; a lower --lr may help"
    )


def batches(
    x: np.ndarray, target: np.ndarray, batch: int, seed: int
) -> Callable[[int, int], PyTree]:
    """Returns `draw(start, stop)`: batches of shuffled epochs, a function of seed and steps alone.

    The arrays may be memory-mapped: a draw reads its rows only, in a time that does not depend on
    how many there are.
    """
    n = len(x)

    def draw(start: int, stop: int) -> PyTree:
        rows = rows_of(start * batch, stop * batch, n, seed)
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
