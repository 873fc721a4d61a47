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
from fbp.train._learnable import learnable
from fbp.train._run import Run
from fbp.train._stored import weights_of
from fbp.train.checkpoints import checkpoints_in, read_checkpoint
from fbp.train.checkpoints._named import like
from fbp.train.text._pretrained import load_language_model

# A checkpoint's parameters, among the arrays of its state.
_PARAMS = "state.params."


@dataclasses.dataclass(frozen=True)
class StepOfRun:
    """What `fbp.explain` needs of a run.

    Attributes:
      objective, params, batch: of the step.
      tokens: of a text, each token as text, and the one after the last; else None.
      said: what it is, for the user.
    """

    objective: Any
    params: Params
    batch: PyTree
    tokens: tuple[str, ...] | None
    said: str


def step_of_table(run: Run, task: Any, rows: int, step: int | None) -> StepOfRun:
    """A step on a batch of so many rows of a run's training data.

    Raises:
      InputError: there is no such checkpoint, or a file is damaged.
    """
    if rows < 1:
        raise InputError(f"expected --rows to be 1 or more, got {rows}")
    objective, first, draw, _ = learnable(task, rows, 0)
    if step is not None:
        params = _at_step(run, first, step)
    else:
        params = ObjectiveParams(weights_of(run, objective.model), first.loss)
    batch = jax.tree.map(lambda a: a[0], draw(0, 1))
    there = len(jax.tree.leaves(batch)[0])
    return StepOfRun(objective, params, batch, None, f"{run.folder}, {there} rows{_said(step)}")


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
    if step is not None:
        params = _at_step(Run(folder), params, step)
    tokens = tuple(tokenizer.decode(ids[i : i + 1]) for i in range(len(ids)))
    batch = ids[None, :-1], ids[None, 1:]
    said = f"{folder}, {len(ids) - 1} tokens{_said(step)}"
    return StepOfRun(NextToken(text_model.model), params, batch, tokens, said)


def _at_step(run: Run, shapes: Params, step: int) -> Params:
    folders = {int(path.name): path for path in checkpoints_in(run.steps)}
    if step not in folders:
        there = ", ".join(f"{n:,}" for n in sorted(folders)) or "none"
        raise InputError(f"{run.folder}: expected a checkpoint of step {step:,}, got {there}")
    arrays = read_checkpoint(folders[step]).arrays
    own = {n.removeprefix(_PARAMS): a for n, a in arrays.items() if n.startswith(_PARAMS)}
    return like(jax.eval_shape(lambda: shapes), own, str(folders[step]))


def _said(step: int | None) -> str:
    return "" if step is None else f", at step {step:,}"
