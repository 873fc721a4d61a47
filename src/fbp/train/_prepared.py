"""What the user's settings make of a task: its objective, its batches and its recipe."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbp._columns import size
from fbp._errors import InputError
from fbp._layer import PyTree
from fbp._microbatch import Microbatch
from fbp.mesh import Layout, make_mesh
from fbp.ports import mixed_precision
from fbp.step._step import one_step, state_of
from fbp.train._recipe import Recipe
from fbp.train._settings import Reporter, Settings
from fbp.train.checkpoints import Checkpoint


def prepared(
    objective: Any, draw: Callable[[int, int], PyTree], batch: int, settings: Settings
) -> tuple[Any, Callable[[int, int], PyTree]]:
    """The objective and the batches as the settings want them."""
    if settings.bf16:
        objective = dataclasses.replace(objective, model=mixed_precision(objective.model))
    if settings.accumulate > 1:
        objective = Microbatch(objective, math.ceil(batch / settings.accumulate))
    few = settings.overfit_batches
    if few is None:
        return objective, draw

    def again(start: int, stop: int) -> PyTree:
        first, n = start % few, stop - start
        if n >= few:
            kept = draw(0, few)
            return jax.tree.map(lambda a: a[np.arange(start, stop) % few], kept)
        if first + n <= few:
            return draw(first, first + n)
        ends = draw(first, few), draw(0, first + n - few)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *ends)

    if hasattr(draw, "rows"):  # for the run to say which they are
        again.rows = lambda step: draw.rows(step % few)  # type: ignore[attr-defined]
        again.unit = getattr(draw, "unit", "training row")  # type: ignore[attr-defined]
    return objective, again


def layout_of(objective: Any, batch: int, settings: Settings, report: Reporter) -> Layout | None:
    """Where arrays lie on the mesh that the user asks for; None for one device.

    Raises:
      InputError: there is no such mesh here, or the batch does not divide among its devices.
    """
    if settings.mesh is None:
        return None
    try:
        layout = Layout(objective, make_mesh(settings.mesh))
        layout.require_examples(batch)
    except InputError as error:
        other = ", or go on with another --mesh, as data=1" if settings.resume is not None else ""
        raise InputError(f"--mesh {settings.mesh}: {error}{other}") from None
    n = layout.mesh.size
    if n == 1:
        return None
    held, whole = map(size, layout.bytes_of_params())
    report.say(f"{n:,} devices, {settings.mesh}: {held} of {whole} of params on each")
    for line in layout.said:
        report.say(line)
    return layout


def require_in_backward(objective: Any, optimizer: Any, batch: PyTree, settings: Settings) -> None:
    """Raises InputError where --in-backward cannot be, while nothing is written yet."""
    if not settings.in_backward:
        return
    step = one_step(objective, optimizer, in_backward=True)

    def first(key: Any) -> Any:
        return step(state_of(objective.init(key), optimizer), batch, key)

    try:
        jax.eval_shape(first, jax.random.key(0))
    except (TypeError, ValueError) as error:
        line = str(error).splitlines()[0].removeprefix("in_backward: ")
        raise InputError(f"--in-backward: {line}") from error


def say_clamped(
    report: Reporter, settings: Settings, steps: int, batch: int, rows: int | None = None
) -> None:
    """Says what of the user's settings is more than this run can have."""
    if rows is not None and settings.batch is not None and rows < settings.batch:
        report.say(f"batch: {rows}, as there are no more rows to train on")
    if settings.accumulate > batch:
        report.say(f"accumulate: {batch} parts, as a batch has no more examples")
    warmup = settings.recipe.get("warmup")
    if warmup is not None and warmup >= steps:
        report.say(f"warmup: {steps - 1} steps, as there are {steps} in all")


def recipe_of(task: Recipe, settings: Settings, resume: Checkpoint | None) -> Recipe:
    """The task's recipe with what the user gives; that of a run that goes on."""
    if resume is not None:
        return Recipe(**resume.content["config"]["recipe"])
    given = {name: value for name, value in settings.recipe.items() if value is not None}
    if given.get("optimizer", task.optimizer) != task.optimizer:
        # Those of the task's own optimizer mean nothing to another.
        given = {"options": {}, "weight_decay": None, **given}
    return dataclasses.replace(task, **given)
