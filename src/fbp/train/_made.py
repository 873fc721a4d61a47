"""A training run of a model that the user's own function makes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fbp
from fbp._errors import InputError
from fbp._layer import Layer, Loss, PyTree
from fbp._objective import Objective
from fbp._signals import Signals
from fbp.explainer import summary
from fbp.train._arrays import batches, evaluator
from fbp.train._drawn import looked_at, require_numbers
from fbp.train._loop import Fit, Metrics, fit
from fbp.train._opened import (
    draw_picture,
    fingerprint,
    go_on_with,
    in_folder,
    noted,
    of_every_run,
    resolved,
    save_weights,
    say_which,
    seal,
    unless_told,
)
from fbp.train._picture import draw_text_run
from fbp.train._prepared import layout_of, prepared, recipe_of, require_in_backward, say_clamped
from fbp.train._recipe import Recipe
from fbp.train._run import Run
from fbp.train._settings import Reporter, Settings
from fbp.train._tasks import Arrays, Task
from fbp.train._traced import require_traces
from fbp.train._trackers import Tracked
from fbp.train._troubles import from_the_start
from fbp.train.checkpoints import Checkpoint
from fbp.verify import cross_check

# The two parts of batches.
ARRAYS = ("x", "target")


@dataclasses.dataclass(frozen=True)
class Made:
    """A model and what it learns.

    Attributes:
      name: runs are named after it.
      objective: the model and its loss.
      data: x and target to train on, or a function draw(start, stop) of the batches of steps.
      held_out: x and target that are looked at on the way and choose nothing, or None.
      steps, batch, lr: the defaults.
      chunks: how many times a run computes its metrics after the start.
    """

    name: str
    objective: Objective
    data: Arrays | Callable[[int, int], PyTree]
    held_out: Arrays | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 3e-3
    chunks: int = 20


def made_of(name: str, made: Any, table: Task | None) -> Made:
    """What a user's function returned: a Layer, a Loss and, if it likes, batches.

    The batches are (x, target), or a function draw(start, stop) of steps; without, the data are
    those of a table.

    Raises:
      InputError: it returned something else, or there are no data.
    """
    kinds = (Layer, Loss)
    given = made if isinstance(made, tuple | list) else (made,)
    if len(given) not in (2, 3) or not all(map(isinstance, given[:2], kinds)):
        got = ", ".join(type(part).__name__ for part in given)
        raise InputError(f"{name}: expected it to return a Layer, a Loss and maybe batches: {got}")
    objective = Objective(*given[:2])
    if len(given) == 3:
        data = given[2]
        if not callable(data):
            if not (isinstance(data, tuple | list) and len(data) == 2):
                raise InputError(f"{name}: expected batches (x, target) or draw(start, stop)")
            x, target = data = tuple(
                _array(name, *named) for named in zip(ARRAYS, data, strict=True)
            )
            if x.ndim == 0 or x.shape[:1] != target.shape[:1] or not len(x):
                raise InputError(f"{name}: expected x and target of as many rows, one or more")
        return Made(name.rpartition(":")[2], objective, data)
    if table is None:
        raise InputError(f"{name}: expected batches from it, or --data FILE and --target NAME")
    return Made(table.name, objective, table.train, table.held_out)


def _array(name: str, which: str, given: Any) -> np.ndarray:
    try:
        a = np.asarray(given)
    except ValueError:
        raise InputError(
            f"{name}: expected {which} to be an array, got rows of uneven size"
        ) from None
    require_numbers(f"{name}: expected {which} to be", a)
    return a


def train_made(
    task: Made, settings: Settings, report: Reporter, signals: Signals | None = None
) -> tuple[Run, Fit]:
    """Checks the gradients, trains, and fills the run's folder, as `train` does for a table."""
    return in_folder(_train_in, task, settings, report, signals)


def _train_in(
    run: Run,
    task: Made,
    settings: Settings,
    report: Reporter,
    signals: Signals,
    resume: Checkpoint | None,
) -> Fit:
    chosen = resolved(settings, task, resume)
    steps, lr, seed, objective = chosen["steps"], chosen["lr"], chosen["seed"], task.objective
    evaluate: Callable[[Any], Metrics]
    if callable(task.data):
        ends_early = settings.patience is not None or settings.max_time < math.inf
        draw = looked_at(task.name, task.data, steps, ends_early)
        batch = jax.tree.leaves(draw(0, 1))[0].shape[1]
        fixed = jax.tree.map(lambda a: a[0], draw(0, 1))
        value = jax.jit(objective.value)
        evaluate = lambda params: {"loss": float(value(params, fixed))}  # noqa: E731
    else:
        batch = min(chosen["batch"], len(task.data[0]))
        draw = batches(*task.data, batch, seed)
        evaluate = evaluator(objective, task.data, task.held_out)
    rows = batch if callable(task.data) else len(task.data[0])
    say_clamped(report, settings, steps, batch, rows)
    first = jax.tree.map(lambda a: a[0], draw(0, 1))
    shapes = jax.eval_shape(objective.init, jax.random.key(seed))
    require_traces(task.name, objective, shapes, first, jax.random.key(seed))
    kept = summary(objective.model, first[0])
    report.table(kept.table())
    report.say(kept.total())
    if settings.check and resume is None:
        report.say("hand-written gradients beside jax.grad, on the first batch:")
        params = objective.init(jax.random.key(seed))
        try:
            check = cross_check(objective, params, first)
        except FloatingPointError as error:
            why = from_the_start(objective, params, draw, steps, None)
            raise FloatingPointError(f"{error}{why}") from None
        del params
        report.table(check.table())
        check.raise_if_wrong()
    recipe = recipe_of(Recipe(weight_decay=0.0), settings, resume)
    config = {
        "fbp": fbp.__version__,
        "task": task.name,
        "name": run.folder.name,
        **chosen,
        "recipe": recipe.to_json(),
        "model": repr(objective),
        "data": fingerprint((first if callable(task.data) else task.data, task.held_out)),
        **noted(settings),
    }
    trained, drawn = prepared(objective, draw, batch, settings)
    layout = layout_of(trained, batch, settings, report)
    require_in_backward(objective, recipe.made(lr, steps), first, settings)
    go_on_with(run, config, resume, report)
    tracked = Tracked(run, settings.track, config, report.say)

    def log(step: int, metrics: Metrics) -> None:
        tracked.log(step, metrics)
        report.progress(step, steps, metrics)

    result = fit(
        trained,
        lambda: objective.init(jax.random.key(seed)),
        recipe.made(lr, steps),
        drawn,
        evaluate,
        watch="loss",
        patience=settings.patience,
        log=log,
        layout=layout,
        **of_every_run(run, settings, config, resume, signals),
    )
    with signals.meanwhile(None), unless_told(result):
        save_weights(run, result)
        if result.signum is None:
            draw_picture(run, report, lambda: draw_text_run(task.name, run.metrics()))
        seal(run, result, steps)
        tracked.close()
        say_which(run, result, report)
    return result
