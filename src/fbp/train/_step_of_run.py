"""A step of a run, to be explained: its objective, its parameters and a batch."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fbp._errors import InputError
from fbp._layer import Params, PyTree
from fbp._objective import ObjectiveParams
from fbp.models import NextToken
from fbp.ports import mixed_precision
from fbp.step import State, state_of
from fbp.text import Tokenizer
from fbp.train._learnable import learnable
from fbp.train._recipe import Recipe
from fbp.train._run import Run
from fbp.train._stored import weights_of
from fbp.train.checkpoints import checkpoints_in, newest_whole, read_checkpoint
from fbp.train.checkpoints._named import like
from fbp.train.text._model import TextModel
from fbp.train.text._pretrained import load_language_model

# A checkpoint's state, among its arrays.
_STATE = "state."


@dataclasses.dataclass(frozen=True)
class StepOfRun:
    """What `fbp.explain` needs of a run.

    Attributes:
      objective, params, batch: of the step.
      tokens: of a text, each token as text, and the one after the last; else None.
      said: what it is, for the user.
      optimizer, state: the run's optimizer and what it remembers, where there is a checkpoint with
        these params; else None.
      task: of a run on a table, what it was trained on; else None.
      update: what makes the update, in words, where there is an optimizer.
      language: of a text, the model and its tokenizer; else None.
    """

    objective: Any
    params: Params
    batch: PyTree
    tokens: tuple[str, ...] | None
    said: str
    optimizer: Any = None
    state: State | None = None
    task: Any = None
    update: tuple[str, ...] = ()
    language: tuple[TextModel, Tokenizer] | None = None


def step_of_table(run: Run, task: Any, rows: int, step: int | None) -> StepOfRun:
    """A step on a batch of so many rows of a run's training data.

    Raises:
      InputError: there is no such checkpoint, or a file is damaged.
    """
    if rows < 1:
        raise InputError(f"expected --rows to be 1 or more, got {rows}")
    objective, first, draw, _ = learnable(task, rows, 0)
    optimizer, state = _training(run, first, step)
    if state is not None:
        params = state.params
    else:
        params = ObjectiveParams(weights_of(run, objective.model), first.loss)
    batch = jax.tree.map(lambda a: a[0], draw(0, 1))
    said = f"{run.folder}, {len(jax.tree.leaves(batch)[0])} rows{_said(state)}"
    objective = _as_trained(run, objective)
    update = _update_of(run, state)
    return StepOfRun(objective, params, batch, None, said, optimizer, state, task, update)


def step_of_text(folder: Path, text: str, step: int | None) -> StepOfRun:
    """A step on a text, of a run or of a model's folder.

    Raises:
      InputError: the text has fewer than two tokens or is longer than the context; there is no such
        checkpoint; the folder cannot be used.
    """
    text_model, params, tokenizer = load_language_model(folder)
    ids = np.asarray(tokenizer.encode(text))
    longest = text_model.context
    if len(ids) < 2:
        raise InputError(f"expected --text to have two tokens or more, got {len(ids)}")
    if longest is not None and len(ids) > longest + 1:
        raise InputError(
            f"expected --text to have at most {longest + 1} tokens, the context and one to "
            f"predict, got {len(ids)}"
        )
    optimizer = state = None
    objective = NextToken(text_model.model)
    run = Run(folder)
    if step is not None or run.steps.is_dir():
        optimizer, state = _training(run, params, step)
        objective = _as_trained(run, objective)
    if state is not None:
        params = state.params
    tokens = tuple(tokenizer.decode(ids[i : i + 1]) for i in range(len(ids)))
    batch = ids[None, :-1], ids[None, 1:]
    said = f"{folder}, {len(ids) - 1} tokens{_said(state)}"
    language = text_model, tokenizer
    update = _update_of(run, state)
    return StepOfRun(
        objective, params, batch, tokens, said, optimizer, state, None, update, language
    )


def _training(run: Run, params: Params, step: int | None) -> tuple[Any, State | None]:
    """The optimizer of a run and its state at a step; None where the best step has none.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    folders = {int(path.name): path for path in checkpoints_in(run.steps)}
    best = step is None
    if step is None:
        newest, _ = newest_whole(run.steps)
        step = -1 if newest is None else int(newest.content["watch"]["best_step"])
        if step not in folders:
            return None, None
    if step not in folders:
        there = ", ".join(f"{n:,}" for n in sorted(folders)) or "none"
        raise InputError(f"{run.folder}: expected a checkpoint of step {step:,}, got {there}")
    config = run.config()
    # What a run keeps of an average is not what its next step starts from.
    if best and (config["recipe"].get("average") is not None or config.get("lora") is not None):
        return None, None
    optimizer = optimizer_of(config)
    return optimizer, state_in(folders[step], params, optimizer)


def _update_of(run: Run, state: State | None) -> tuple[str, ...]:
    if state is None:
        return ()
    config = run.config()
    recipe = Recipe(**config["recipe"])
    return tuple(recipe.said(config["lr"], config["steps"], int(state.step)))


def optimizer_of(config: dict[str, Any]) -> Any:
    """The optimizer of a run, by its config."""
    return Recipe(**config["recipe"]).made(config["lr"], config["steps"])


def state_in(folder: Path, params: Params, optimizer: Any) -> State:
    """The state in a checkpoint, with params like these.

    Raises:
      InputError: it is damaged, or of another model or optimizer.
    """
    shapes = jax.eval_shape(lambda: state_of(params, optimizer))
    arrays = read_checkpoint(folder).arrays
    own = {n.removeprefix(_STATE): a for n, a in arrays.items() if n.startswith(_STATE)}
    return like(shapes, own, str(folder))


def _as_trained(run: Run, objective: Any) -> Any:
    """The objective in the precision that the run has."""
    if not run.config().get("bf16"):
        return objective
    return dataclasses.replace(objective, model=mixed_precision(objective.model))


def _said(state: State | None) -> str:
    if state is None:
        return ""
    return f", at step {int(state.step):,}" if state.step else ", before any training"
