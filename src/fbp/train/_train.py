"""One training run on a table, from its data to its folder."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

import fbp
from fbp._objective import Objective
from fbp.explain import summary
from fbp.train._loop import Fit, batches, evaluator, fit, make_optimizer
from fbp.train._picture import draw_run
from fbp.train._run import LAST, Run, new_run
from fbp.train._tasks import Task, build_model
from fbp.train.tables._table import InputError
from fbp.verify import cross_check


class Reporter(Protocol):
    """Receives the output of a run."""

    def say(self, text: str) -> None:
        """Shows a line."""

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Shows a table; the first row is its header."""

    def progress(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Shows the current step and its metrics."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that the user may choose; None takes the task's."""

    name: str | None = None
    steps: int | None = None
    batch: int | None = None
    seed: int = 0
    lr: float | None = None
    check: bool = True
    runs: Path = Path("runs")

    def __post_init__(self) -> None:
        for flag, value in (("--steps", self.steps), ("--batch", self.batch)):
            if value is not None and value < 1:
                raise InputError(f"expected {flag} to be 1 or more, got {value}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"expected --seed to be from 0 to {2**32 - 1}, got {self.seed}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"expected --lr to be a positive number, got {self.lr}")


def train(task: Task, settings: Settings, report: Reporter) -> tuple[Run, Fit]:
    """Checks the gradients, trains, and fills the run's folder.

    Raises:
      InputError: the run's folder cannot be made.
      WrongGradientError: a hand-written gradient disagrees with jax.grad; nothing is trained.
      FloatingPointError: the loss is not finite before the first update.
    """
    with new_run(settings.runs, settings.name, task.name) as run:
        return run, _train_in(run, task, settings, report)


def _train_in(run: Run, task: Task, settings: Settings, report: Reporter) -> Fit:
    steps, lr = settings.steps or task.steps, settings.lr or task.lr
    batch = min(settings.batch or task.batch, len(task.train[0]))
    model = build_model(task.model_spec())
    objective = Objective(model, task.loss())
    params = objective.init(jax.random.key(settings.seed))
    draw = batches(*task.train, batch, settings.seed)

    held_out = 0 if task.held_out is None else len(task.held_out[0])
    report.say(
        f"{task.name}: {task.encoding.kind}, {len(task.train[0]):,} rows to train on, "
        f"{held_out:,} held out, {len(task.encoding.columns)} inputs"
    )
    for line in task.said:
        report.say(line)
    if settings.batch is not None and batch < settings.batch:
        report.say(f"batch: {batch}, as there are no more rows to train on")
    first = jax.tree.map(lambda a: a[0], draw(0, 1))
    kept = summary(model, first[0])
    report.table(kept.table())
    report.say(kept.total())
    if settings.check:
        report.say("hand-written gradients beside jax.grad, on the first batch:")
        check = cross_check(objective, params, first)
        report.table(check.table())
        check.raise_if_wrong()

    run.save_config(
        {
            "fbp": fbp.__version__,
            "task": task.name,
            "name": run.folder.name,
            "steps": steps,
            "batch": batch,
            "seed": settings.seed,
            "lr": lr,
            "optimizer": "sgd" if task.weight_decay is None else "adamw",
            "weight_decay": task.weight_decay,
            "label_smoothing": task.label_smoothing,
            "model": task.model_spec(),
            "encoding": task.encoding.to_json(),
        }
    )

    # Where rows were set aside to choose by, the held-out ones are looked at once, at the end;
    # where there are none, they are shown on the way, and choose nothing.
    chosen = task.validation is not None
    evaluate = evaluator(objective, task.train, task.validation if chosen else task.held_out)
    watch = "val_loss" if chosen else "loss"

    def log(step: int, metrics: dict[str, float]) -> None:
        run.log(step, metrics)
        report.progress(step, steps, metrics)

    result = fit(
        objective,
        params,
        make_optimizer(lr, steps, task.weight_decay),
        draw,
        evaluate,
        steps=steps,
        eval_every=-(-steps // task.chunks),
        watch=watch,
        patience=task.patience,
        log=log,
        # On a CPU, XLA runs a convolution several times slower inside a loop than outside.
        scan=task.image is None,
    )
    if chosen and task.held_out is not None:
        tested = evaluator(objective, task.held_out, None)(result.params)
        tested = {f"test_{name}": value for name, value in tested.items()}
        result = dataclasses.replace(result, metrics={**result.metrics, **tested})
    run.save_weights(result.params.model)
    if result.last_step != result.step:
        run.save_last(result.last.params.model)
        report.say(
            f"the weights are those of step {result.step}, the best by {watch}; those of step "
            f"{result.last_step} are in {LAST}"
        )
    predict = jax.jit(lambda x: model.forward(result.params.model, x)[0])
    try:
        run.save_picture(draw_run(task, run.metrics(), lambda x: np.asarray(predict(x))))
    except Exception as error:  # the weights are saved already: a failed picture is only reported
        report.say(f"no picture: {str(error).splitlines()[0] if str(error) else error!r}")
    return result
