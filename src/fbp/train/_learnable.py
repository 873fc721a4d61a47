"""What a task learns by: its objective, its first parameters, its batches and its recipe."""

import dataclasses
from typing import Any

import jax

from fbp._layer import Params
from fbp._objective import Objective
from fbp.train._arrays import batches
from fbp.train._drawn import looked_at
from fbp.train._loop import first_of
from fbp.train._made import Made
from fbp.train._recipe import Recipe
from fbp.train._tasks import Task, build_model
from fbp.train._traced import require_traces
from fbp.train._train import first_params, rows_of_task
from fbp.train.text._learned import learned
from fbp.train.text._recipe import text_recipe
from fbp.train.text._task import TextTask
from fbp.train.text._train import start_of


def learnable(task: Any, batch: int | None, seed: int) -> tuple[Any, Params, Any, Recipe]:
    """The objective of a task, its first parameters, its batches and its recipe."""
    if isinstance(task, TextTask):
        text_model, params = start_of(task, seed)
        learns = learned(task, text_model.model, batch or task.batch, seed)
        recipe = dataclasses.replace(text_recipe(task.steps), warmup=0)
        return learns.objective, params, learns.draw, recipe
    if isinstance(task, Made):
        objective, recipe = task.objective, Recipe(weight_decay=0.0)
        params = objective.init(jax.random.key(seed))
        if callable(task.data):
            draw = looked_at(task.name, task.data, 2)
        else:
            draw = batches(*task.data, min(batch or task.batch, len(task.data[0])), seed)
        require_traces(task.name, objective, params, first_of(draw), jax.random.key(seed))
        return objective, params, draw, recipe
    assert isinstance(task, Task)
    model = build_model(task.model_spec(), side_by_side=True)
    objective, recipe = Objective(model, task.loss()), task.recipe()
    rows, left = rows_of_task(task, seed)
    draw = batches(*rows, min(batch or task.batch, len(rows[0])), seed)
    return objective, first_params(task, objective, rows, left, seed), draw, recipe
