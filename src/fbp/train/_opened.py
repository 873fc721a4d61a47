"""What every run does beside its steps: its folder, its settings, how it goes on and ends."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fbp._errors import InputError
from fbp._layer import PyTree
from fbp._picture import Picture
from fbp._signals import Signals
from fbp.train._loop import Fit
from fbp.train._run import CONFIG, LAST, Run, new_run
from fbp.train._settings import Reporter, Settings
from fbp.train.checkpoints import Checkpoint, SaveError, Saver, newest_whole
from fbp.train.checkpoints._logs import cut_back

# What of a configuration may differ where a run goes on.
MAY_CHANGE = ("steps", "eval_every", "patience", "mesh", "name", "command", "fbp")
# The sums of the data, whatever else follows from it: "data" of a run on text is its name.
_SUMS = "data", "tokens"
# Of the data, this many bytes at most are summed.
SUMMED = 2**26


@contextlib.contextmanager
def opened(
    settings: Settings, task: str, report: Reporter, signals: Signals
) -> Iterator[tuple[Run, Checkpoint | None]]:
    """The folder of a new run, or of one to go on with and its newest whole checkpoint.

    Until the training itself begins, a signal ends the process and leaves nothing.
    """
    if settings.resume is None:
        with (
            new_run(settings.runs, settings.name, task, settings.if_taken) as run,
            # Where the process goes on, the run ends as one that was stopped before its first step.
            signals.meanwhile(run.discard if signals.ends else None),
        ):
            yield run, None
        return
    run = Run(settings.resume)
    with run.locked(), signals.meanwhile(_nothing):
        yield run, _taken_up(run, report)


def in_folder(
    train_in: Callable[..., Fit],
    task: Any,
    settings: Settings,
    report: Reporter,
    signals: Signals | None,
) -> tuple[Run, Fit]:
    """Opens the folder of a run and fills it by `train_in(run, task, settings, report, signals,
    resume)`. Without signals none is listened to."""
    signals = signals if signals is not None else Signals()
    with opened(settings, task.name, report, signals) as (run, resume):
        return run, train_in(run, task, settings, report, signals, resume)


def _taken_up(run: Run, report: Reporter) -> Checkpoint | None:
    checkpoint, damaged = newest_whole(run.steps)
    for line in damaged:
        report.say(f"DAMAGED, not used: {line}")
    if checkpoint is None and damaged:
        raise InputError(f"{run.steps}: expected a checkpoint that is whole, got only damaged ones")
    if checkpoint is None:
        run.config()
        report.say(f"{run.folder}: nothing was saved yet: beginning again at step 0")
        return None
    if damaged:
        report.say(f"GOING ON FROM THE ONE BEFORE: step {checkpoint.step:,}, {checkpoint.folder}")
    for line in checkpoint.other_versions():
        report.say(f"the run so far was of {line}: the last digits may differ")
    for key, value in run.config().items():
        noted = checkpoint.content["config"].get(key)
        if value != noted and key not in MAY_CHANGE:
            raise InputError(
                f"{run.folder / CONFIG}: damaged, or changed: {key} is not what the checkpoint of "
                f"step {checkpoint.step} was made with"
            )
    return checkpoint


def resolved(settings: Settings, task: Any, resume: Checkpoint | None) -> dict[str, Any]:
    """The settings as they are: the user's, else those of the run that goes on, else the task's."""
    defaults = {"steps": task.steps, "batch": task.batch, "seed": 0, "lr": task.lr}
    if resume is not None:
        defaults = {name: resume.content["config"][name] for name in (*defaults, "eval_every")}
    given = {name: getattr(settings, name) for name in (*defaults, "eval_every")}
    for name, value in given.items():
        if resume and name not in MAY_CHANGE and value not in (None, defaults[name]):
            raise InputError(
                f"--{name.replace('_', '-')} cannot be changed where a run goes on: it was "
                f"{defaults[name]}, got {value}"
            )
    found = {name: given[name] if given[name] is not None else defaults.get(name) for name in given}
    if settings.eval_seconds is not None:
        found["eval_every"] = found["steps"]
    found["eval_every"] = found["eval_every"] or math.ceil(int(found["steps"] or 1) / task.chunks)
    return found


def go_on_with(
    run: Run, config: dict[str, Any], resume: Checkpoint | None, report: Reporter
) -> None:
    """Writes config.json, and brings the folder of a run that goes on to where its checkpoint is.

    Raises:
      InputError: the configuration is not that of the checkpoint, or a log is damaged.
    """
    config = _as_json(config)
    if resume is None:
        if run.is_begun:  # without a checkpoint yet
            require_same(run, config, run.config())
        run.clear_logs()
    else:
        then = resume.content["config"]
        require_same(run, config, then)
        # A run that was stopped after its last step still has files to write.
        if resume.step >= config["steps"] and run.is_sealed:
            raise InputError(
                f"{run.folder}: has taken all its {resume.step:,} steps: to go on, give it more "
                "with --steps"
            )
        for line in cut_back(run.folder, resume.content["logs"]):
            report.say(line)
        run.unseal()
        report.say(f"going on from step {resume.step:,} of {config['steps']:,}")
        for key in ("steps", "eval_every"):
            if then[key] != config[key]:
                report.say(
                    f"{key}: {config[key]:,} now, {then[key]:,} before: from here on the numbers "
                    "are not those of an uninterrupted run"
                )
    run.save_config(config)


def require_same(run: Run, config: dict[str, Any], then: dict[str, Any]) -> None:
    """Raises InputError unless a run was begun with this configuration, but for what may change."""
    for key, value in sorted(_as_json(config).items(), key=lambda item: item[0] not in _SUMS):
        if key not in MAY_CHANGE and then.get(key) != value:
            if key in _SUMS and _is_sum(value) and _is_sum(then.get(key)):
                raise InputError(
                    f"{run.folder}: cannot go on: the data is not what the run began with: give it "
                    "as it was, or train anew"
                )
            raise InputError(
                f"{run.folder}: cannot go on: {key} is {_short(value)} now, and was "
                f"{_short(then.get(key))}"
            )


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """As it is read again, without tuples."""
    return dict(json.loads(json.dumps(config)))


def noted(settings: Settings) -> dict[str, Any]:
    """What config.json says of the settings that no task has."""
    names = ("accumulate", "bf16", "in_backward", "patience", "overfit_batches", "mesh", "command")
    return {name: getattr(settings, name) for name in names}


def of_every_run(
    run: Run,
    settings: Settings,
    config: dict[str, Any],
    resume: Checkpoint | None,
    signals: Signals,
) -> dict[str, Any]:
    """The arguments of `fit` that do not depend on the task."""
    return {
        "steps": config["steps"],
        "eval_every": config["eval_every"],
        "key": jax.random.fold_in(jax.random.key(config["seed"]), 1),
        "eval_seconds": math.inf if settings.eval_seconds is None else settings.eval_seconds,
        "in_backward": settings.in_backward,
        "max_seconds": settings.max_time,
        "saver": saver_of(run, settings, config),
        "resume": resume,
        "signals": signals,
    }


def saver_of(run: Run, settings: Settings, config: dict[str, Any]) -> Saver:
    """What writes the checkpoints of a run."""
    every = settings.save_every or math.inf
    return Saver(
        run.steps, every=every, keep=settings.keep, content={"config": config}, logs=run.logs
    )


def fingerprint(arrays: PyTree) -> str:
    """A sum of data, to know it again: of all of it, or if it is large, of rows all over it."""
    digest = hashlib.sha256()
    for a in jax.tree.leaves(arrays):
        digest.update(f"{a.dtype}{a.shape}".encode())
        every = max(1, a.nbytes // SUMMED)
        digest.update(np.ascontiguousarray(a[::every]).data)
    return digest.hexdigest()


@contextlib.contextmanager
def unless_told(result: Fit) -> Iterator[None]:
    """Lets a disk that cannot be written to be told once: by the run, if it has met it already."""
    try:
        yield
    except SaveError:
        if result.trouble is None:
            raise


def save_weights(run: Run, result: Fit) -> None:
    """Saves the model's best weights, and the last where those are others."""
    best, last = (getattr(p, "model", p) for p in (result.params, result.last.params))
    run.save_weights(best, last if result.last_step != result.step else None)


def seal(run: Run, result: Fit, steps: int) -> None:
    """Notes that the run has ended, unless it was stopped after its last step: then it still has
    its answers to measure and its picture to draw, and may go on to do so."""
    if result.signum is None or result.last_step < steps:
        run.seal()


def say_which(run: Run, result: Fit, report: Reporter) -> None:
    """Says of which step the weights are, where they are not the last ones."""
    if result.ended is not None:
        report.say(result.ended)
    if result.last_step != result.step:
        there = (run.folder / LAST).exists()
        others = f"; those of step {result.last_step:,} are in {LAST}" if there else ""
        report.say(
            f"the weights are those of step {result.step:,}, the best by {result.watch.name}"
            f"{others}"
        )


def draw_picture(run: Run, report: Reporter, draw: Callable[[], Picture]) -> None:
    """Saves a picture; where none can be drawn, only says so."""
    try:
        png = draw().bytes()
    except Exception as error:
        report.say(f"no picture: {str(error).splitlines()[0] if str(error) else error!r}")
        return
    run.save_picture(png)


def _nothing() -> None:
    """What a signal does where nothing is to be saved."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
