"""The training loop, the same for every model: forward, loss, backward, update, in chunks."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax

from fbp._errors import InputError
from fbp._layer import Key, Params, PyTree
from fbp._objective import ObjectiveLike
from fbp._signals import Signals, name_of_signal
from fbp.mesh import Layout
from fbp.step._step import State, all_finite
from fbp.train._at import begin, copied, shown, skipped_of
from fbp.train._steps import Steps
from fbp.train._troubles import diverges, from_the_start, kept, refused
from fbp.train._watch import Metrics, Watch
from fbp.train.checkpoints import Checkpoint, SaveError, Saver, folder_of

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
      last_step: the number of updates that were made.
      watch: what was watched.
      trouble: why it stopped early, in one line, or None.
      ended: why it ended before all steps without a fault, or None.
      signum: the signal that stopped it, or None.
    """

    params: Params
    step: int
    metrics: Metrics
    last: State
    last_step: int
    watch: Watch
    trouble: str | None = None
    ended: str | None = None
    signum: int | None = None

    @property
    def status(self) -> int:
        """The exit status of a program that does nothing else: 0, 1 after trouble, or 128 and the
        signal, as 130 after Ctrl-C and 143 after SIGTERM."""
        if self.signum is not None:
            return 128 + self.signum
        return 0 if self.trouble is None else 1


def fit(
    objective: ObjectiveLike,
    params: Params,
    optimizer: Any,
    draw: Callable[[int, int], PyTree],
    evaluate: Callable[[Params], Metrics],
    *,
    steps: int,
    eval_every: int,
    eval_seconds: float = math.inf,
    log: Callable[[int, Metrics], None],
    key: Key = None,
    watch: str | None = None,
    patience: int | None = None,
    usual: float = 0.0,
    scan: bool = True,
    in_backward: bool = False,
    max_seconds: float = math.inf,
    progress: Callable[[int, float], None] | None = None,
    saver: Saver | None = None,
    resume: Checkpoint | None = None,
    signals: Signals | None = None,
    layout: Layout | None = None,
) -> Fit:
    """Trains, and keeps the parameters of the best evaluation.

    Steps are taken many in a call of about half a second; the numbers do not depend on how they are
    cut, nor on whether the run was stopped and resumed. A step whose loss or gradient is not finite
    is not taken, and ends the run; so does a loss that has gone far above the best, and a
    checkpoint that cannot be written. SIGINT and SIGTERM finish the call at hand and save.

    Args:
      objective: the objective to minimize.
      params: the initial parameters, or a function that returns them: then no copy of them stays
        in memory.
      optimizer: any optax optimizer.
      draw: `draw(start, stop)` returns the batches of these steps, stacked.
      evaluate: returns the metrics of params, "loss" among them.
      steps: the number of updates.
      eval_every: the number of updates between evaluations; there is one before the first update
        and one after the last.
      eval_seconds: there is one after this time since the last, too: which is the best then goes by
        the clock.
      log: called with the number of updates and the metrics of each evaluation.
      key: for layers that draw noise in training; each step folds its number into it.
      watch: the metric whose lowest value is the best: by default "val_loss" where there is one,
        or else "loss".
      patience: ends the run after this many evaluations that are not the best.
      usual: a size of the watched metric that is not divergence.
      scan: whether the steps of a call are one program.
      in_backward: as for `fbp.step_of`.
      max_seconds: ends the run after this time, and saves.
      progress: called between evaluations with the number of updates and the loss of the last.
      saver: writes checkpoints; None writes none.
      resume: a checkpoint of a run of the same arguments, to go on from.
      signals: those that the caller listens to; by default this listens while it runs.
      layout: where arrays lie on a mesh of several devices.

    Raises:
      FloatingPointError: the loss is not finite before the first update.
      InputError: the checkpoint is of another model or optimizer.
    """
    if callable(params):
        params = params()
    at = begin(params, optimizer, Watch(watch, patience, usual), resume)
    del params
    if layout is not None:
        at.state = layout.move(at.state)

    def save() -> None:
        if saver is not None:
            at.save(saver)
            saver.finish()
            heard.said = f" after step {at.step:,}, saved in {folder_of(saver.steps, at.step)}"

    def measured() -> Metrics:
        with heard.meanwhile(save):
            return {**evaluate(shown(at.state)), **skipped_of(at.state)}

    started = evaluated = time.monotonic()
    trouble: str | None = None
    ended: str | None = None
    is_whole = False  # the state before the trouble
    pace, run, ahead = _Pace(), None, None

    def cut(start: int) -> int:
        """Where a call that begins at this step ends."""
        at_evaluation = (start // eval_every + 1) * eval_every
        assert run is not None
        return min(start + pace.steps, start + run.most, at_evaluation, steps)

    listening = Signals() if signals is None else contextlib.nullcontext(signals)
    with listening as heard, heard.meanwhile(None):
        try:
            if saver is not None:
                saver.require_space(at.state)
            while True:
                is_evaluation = at.step % eval_every == 0 or at.step >= steps
                is_evaluation |= time.monotonic() - evaluated > eval_seconds
                if is_evaluation and at.evaluated != at.step and heard.signum is None:
                    metrics = measured()
                    if not _finite(metrics):
                        if at.step == 0:
                            loss = metrics["loss"]
                            why = from_the_start(objective, at.state.params, draw, steps, key)
                            raise FloatingPointError(
                                f"the loss is {loss} before the first update{why}"
                            )
                        bad = next(n for n, v in metrics.items() if not math.isfinite(v))
                        trouble = f"step {at.step}: {bad} is {metrics[bad]}: stopped{kept(at)}"
                        break
                    at.note(metrics)
                    log(at.step, metrics)
                    evaluated = time.monotonic()
                if at.watch.diverges:
                    trouble = diverges(at)
                elif not at.watch.is_patient:
                    ended = (
                        f"no better {at.watch.name} in {at.watch.since} evaluations: ended after "
                        f"step {at.step}"
                    )
                elif time.monotonic() - started > max_seconds and at.step < steps:
                    ended = f"{max_seconds:g} seconds are over: ended after step {at.step:,}"
                if at.step >= steps or trouble or ended or heard.signum is not None:
                    break
                if saver is not None and saver.is_due():
                    at.save(saver)
                if run is None:
                    with heard.meanwhile(save):
                        run = Steps(
                            objective,
                            optimizer,
                            at.state,
                            first_of(draw),
                            key,
                            most=eval_every,
                            scan=scan,
                            in_backward=in_backward,
                            layout=layout,
                        )
                stop = cut(at.step)
                if ahead is None or jax.tree.leaves(ahead)[0].shape[0] != stop - at.step:
                    try:
                        ahead = draw(at.step, stop)
                    except InputError as error:
                        if at.step == 0:
                            raise
                        trouble, is_whole = f"step {at.step + 1}: {error}{kept(at)}", True
                        break
                began = time.perf_counter()
                wait = run.start(at.state, at.step, ahead)
                # Drawn while the device computes.
                try:
                    ahead = draw(stop, cut(stop)) if stop < steps else None
                except InputError:  # said when it is drawn again, after the steps at hand
                    ahead = None
                taken = wait()
                at.state = taken.state
                del wait  # and the copy of the state that it may hold
                if not taken.good:
                    at.step += len(taken.losses) - 1
                    with heard.meanwhile(save):
                        trouble = refused(at, float(taken.losses[-1]), objective, draw, key)
                    is_whole = bool(all_finite(at.state.params))
                    break
                at.step = stop
                pace.took(len(taken.losses), time.perf_counter() - began)
                if progress is not None:
                    progress(at.step, float(taken.losses[-1]))
            if trouble is None or is_whole:
                save()
            elif saver is not None:
                saver.finish()
        except SaveError as error:
            trouble = str(error) if trouble is None else f"{trouble}; {error}"
    if at.evaluated < 0:  # stopped before anything was measured
        at.best = copied(shown(at.state))
    if trouble is None and heard.signum is not None:
        saved = "" if saver is None else f", saved in {folder_of(saver.steps, at.step)}"
        trouble = f"stopped by {name_of_signal(heard.signum)} after step {at.step:,}{saved}"
    return Fit(
        at.best,
        max(at.watch.best_step, 0),
        at.best_metrics,
        at.state,
        at.step,
        at.watch,
        trouble,
        ended,
        heard.signum,
    )


class _Pace:
    """How many steps a call should take: few at first, then what `SECONDS_A_CALL` allows."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        allowed = int(steps * SECONDS_A_CALL / max(seconds, 1e-9))
        self.steps = max(1, min(allowed, 4 * self.steps))


def first_of(draw: Callable[[int, int], PyTree]) -> PyTree:
    """The shapes and dtypes of a batch."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], jax.dtypes.canonicalize_dtype(a.dtype)),
        draw(0, 1),
    )


def _finite(metrics: Metrics) -> bool:
    return all(math.isfinite(value) for value in metrics.values())
