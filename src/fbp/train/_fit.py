"""Training from a script: what `fbp train` does, for any objective and any data."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

import fbp
from fbp._errors import InputError
from fbp._layer import Key, Params, PyTree
from fbp._objective import ObjectiveLike
from fbp._signals import Signals
from fbp.mesh import Layout
from fbp.step._mistakes import require_parts
from fbp.train._drawn import Draw, looked_at
from fbp.train._loop import Fit, Metrics, first_of
from fbp.train._loop import fit as take_steps
from fbp.train._opened import go_on_with, opened, require_same, save_weights, saver_of, unless_told
from fbp.train._settings import Settings
from fbp.train._traced import require_traces
from fbp.train.checkpoints._logs import cut_back


def fit(
    objective: ObjectiveLike,
    optimizer: Any,
    draw: Callable[[int, int], PyTree],
    *,
    steps: int,
    folder: str | Path | None = None,
    resume: bool = False,
    params: Params | Callable[[], Params] | None = None,
    seed: int = 0,
    key: Key = None,
    evaluate: Callable[[Params], Metrics] | None = None,
    eval_every: int | None = None,
    eval_seconds: float | None = None,
    watch: str | None = None,
    patience: int | None = None,
    mesh: Any = None,
    save_every: float = 60.0,
    keep: int = 2,
    max_seconds: float = math.inf,
    scan: bool = True,
    in_backward: bool = False,
    config: dict[str, Any] | None = None,
    log: Callable[[int, Metrics], None] | None = None,
    say: Callable[[str], None] = print,
) -> Fit:
    """Trains, and keeps the weights of the best evaluation; in a folder, nothing is lost.

    A step whose loss or gradient is not finite is not taken: the run ends and names the step, the
    layer, and whether it was forward or backward. So does a loss that goes far above the best.
    SIGINT and SIGTERM finish the steps at hand, which take half a second, and save.

        result = fbp.train.fit(objective, optimizer, draw, steps=1000, folder="runs/mine",
                               resume=True)
        sys.exit(result.status)

    The folder holds `metrics.jsonl`, checkpoints of the whole state in `steps/`, and at the end the
    model's parameters in `weights.safetensors` and `last.safetensors`. A run that is resumed gives
    bit for bit the numbers of one that was not stopped, if objective, optimizer and data are the
    same: that is for the script to see to, but for what it gives as `config`.

    Args:
      objective: what to minimize.
      optimizer: any optax optimizer, or `fbp.Clipped`, `fbp.SpikesSkipped`, `fbp.Averaged` or
        `fbp.LossScaled` of one. Of an `Averaged`, the average is evaluated and kept.
      draw: `draw(start, stop)` returns the batches of these steps, stacked: a function of the steps
        alone, as `fbp.train.batches` and `fbp.text.random_windows` make.
      steps: the number of updates.
      folder: of the run; it must be new, or empty, unless it is resumed. None writes nothing.
      resume: whether to go on with the run in the folder where there is one.
      params: the initial parameters, or a function that returns them, of which no copy then stays
        in memory; by default `objective.init(jax.random.key(seed))`.
      seed: of the initial parameters and the key.
      key: for layers that draw noise; by default one of the seed.
      evaluate: returns metrics of the parameters, "loss" among them, as floats; by default the loss
        on the batch of step 0.
      eval_every: steps between evaluations; by default a twentieth of the run.
      eval_seconds: evaluates after this time since the last one, too.
      watch: the metric whose lowest value is the best: by default val_loss, or else loss.
      patience: ends the run after this many evaluations that are not the best.
      mesh: the devices to train on, as for `fbp.step_of`: a `jax.sharding.Mesh`, or a
        `fbp.mesh.Layout` of this objective. A run may go on with another.
      save_every: seconds between checkpoints.
      keep: how many of the newest checkpoints are kept.
      max_seconds: ends the run, as a signal does, after this time.
      scan: whether the steps of a call are one program; False calls one step after another.
      in_backward: as for `fbp.step_of`.
      config: what `config.json` says, as JSON; a run that is resumed must have the same.
      log: called with the number of updates and the metrics of each evaluation.
      say: called with lines for the user.

    Returns:
      A `Fit`: the parameters of the best evaluation, the last state, why it ended.

    Raises:
      InputError: an argument is of another kind, draw does not return batches, or the objective
        raises on the first one; the folder cannot be written to, is taken, or holds another run.
      FloatingPointError: the loss is not finite before the first update.
    """
    _require_arguments(objective, optimizer, steps)
    ends_early = patience is not None or max_seconds < math.inf
    draw = looked_at("fit", draw, steps, ends_early)
    if params is None:
        params = functools.partial(objective.init, jax.random.key(seed))
    if key is None:
        key = jax.random.fold_in(jax.random.key(seed), 1)
    start = functools.partial(_traced, objective, params, draw, key)
    if eval_every is None:
        eval_every = max(1, math.ceil(steps / 20)) if eval_seconds is None else steps
    if evaluate is None:
        evaluate = _loss_of(objective, draw)
    more: dict[str, Any] = {
        "steps": steps,
        "eval_every": eval_every,
        "eval_seconds": math.inf if eval_seconds is None else eval_seconds,
        "key": key,
        "watch": watch,
        "patience": patience,
        "max_seconds": max_seconds,
        "scan": scan,
        "in_backward": in_backward,
        "layout": _layout(objective, mesh, draw),
    }
    report = _Said(say)

    def told(step: int, metrics: Metrics) -> None:
        if log is not None:
            log(step, metrics)
        else:
            report.progress(step, steps, metrics)

    if folder is None:
        result = take_steps(objective, start, optimizer, draw, evaluate, log=told, **more)
        _tell(result, say)
        return result

    folder = Path(folder)
    goes_on = resume and (folder / "config.json").exists()
    settings = Settings(
        name=folder.name,
        runs=folder.parent,
        resume=folder if goes_on else None,
        save_every=save_every,
        keep=keep,
        if_taken=_if_taken(folder, resume),
    )
    whole = {"fbp": fbp.__version__, "steps": steps, "eval_every": eval_every, "seed": seed}
    whole |= {"config": config}
    with Signals() as signals, opened(settings, folder.name, report, signals) as (run, checkpoint):
        has_ended = False
        if checkpoint is not None and checkpoint.step >= steps:
            has_ended = True
            require_same(run, whole, checkpoint.content["config"])
            cut_back(run.folder, checkpoint.content["logs"])
            say(f"{folder}: has taken all its {checkpoint.step:,} steps")
        else:
            go_on_with(run, whole, checkpoint, report)

        def noted(step: int, metrics: Metrics) -> None:
            run.log(step, metrics)
            told(step, metrics)

        result = take_steps(
            objective,
            start,
            optimizer,
            draw,
            evaluate,
            log=noted,
            saver=None if has_ended else saver_of(run, settings, whole),
            resume=checkpoint,
            signals=signals,
            **more,
        )
        with signals.meanwhile(None), unless_told(result):
            save_weights(run, result)
            run.seal()
        if result.signum is None and signals.signum is not None:  # while these were written
            result = dataclasses.replace(result, signum=signals.signum)
        _tell(result, say)
    return result


def _require_arguments(objective: Any, optimizer: Any, steps: Any) -> None:
    try:
        require_parts(objective, optimizer, has_aux=False, in_backward=False)
    except TypeError as error:
        raise InputError(f"fit: {str(error).removeprefix('step: ')}") from None
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 1:
        raise InputError(f"fit: expected steps of 1 or more, a whole number, got {steps!r}")


def _traced(objective: ObjectiveLike, params: Any, draw: Draw, key: Key) -> Params:
    """The first parameters, if a step can be taken with them."""
    first = params() if callable(params) else params
    require_traces("fit", objective, first, first_of(draw), key)
    return first


def _layout(objective: Any, mesh: Any, draw: Draw) -> Layout | None:
    if mesh is None:
        return None
    layout = mesh if isinstance(mesh, Layout) else Layout(objective, mesh)
    layout.require_examples(jax.tree.leaves(first_of(draw))[0].shape[0])
    return layout


def _if_taken(folder: Path, resume: bool) -> str:
    if resume or not (folder / "config.json").exists():
        return "choose another folder="
    return "choose another folder=, or go on with it by resume=True"


def _tell(result: Fit, say: Callable[[str], None]) -> None:
    for line in (result.ended, result.trouble):
        if line is not None:
            say(line)


def _loss_of(
    objective: ObjectiveLike, draw: Callable[[int, int], PyTree]
) -> Callable[[Params], Metrics]:
    value = jax.jit(objective.value)
    batch = jax.tree.map(lambda a: a[0], draw(0, 1))
    return lambda params: {"loss": float(value(params, batch))}


class _Said:
    """A reporter of lines."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def say(self, text: str) -> None:
        """Says a line."""
        self._say(text)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Shows nothing: `fit` makes no tables."""

    def progress(self, step: int, steps: int, metrics: Metrics) -> None:
        """Says a line."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._say(f"step {step:>{len(str(steps))}}/{steps}  {shown}")
