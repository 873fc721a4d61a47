"""What became of a run over its checkpoints: gradients, steps and answers at each."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._errors import InputError
from fbp._layer import PyTree
from fbp._tree import named_leaves
from fbp.explainer._training import OverTraining
from fbp.step import State
from fbp.step._step import one_step
from fbp.train._at import shown
from fbp.train._checkpoint_answers import answers_of, asking, evenly
from fbp.train._run import Run
from fbp.train._step_of_run import StepOfRun, optimizer_of, state_in
from fbp.train.checkpoints import checkpoints_in

# The most checkpoints that are measured, names that are told apart, and checkpoints that write.
CHECKPOINTS, NAMES, TEXTS = 60, 40, 12


def over_training(run: Run, step: StepOfRun) -> tuple[OverTraining | None, list[str]]:
    """What became of a run on the batch of a step, and lines to say.

    None where fewer than two checkpoints are whole and have params like those of the step, as those
    of a run that trains LoRA have not.
    """
    folders = checkpoints_in(run.steps)[::-1]
    config = run.config()
    if len(folders) < 2 or config.get("lora") is not None or "recipe" not in config:
        return None, []
    optimizer = optimizer_of(config)
    said: list[str] = []
    steps: list[int] = []
    found: list[tuple[Any, Any, Any]] = []
    told: list[Any] = []
    ask = asking(step)
    chosen = evenly(len(folders), CHECKPOINTS)
    # A text takes a while.
    some = TEXTS if step.language is not None else CHECKPOINTS
    asked = {chosen[i] for i in evenly(len(chosen), some)}
    measure = jax.jit(lambda state, batch: _measured(step.objective, optimizer, state, batch))
    for i in chosen:
        try:
            state = state_in(folders[i], step.params, optimizer)
        except InputError as error:
            said.append(f"not shown over training: {error}")
            continue
        steps.append(int(folders[i].name))
        found.append(jax.tree.map(np.asarray, measure(state, step.batch)))
        told.append(ask(shown(state)) if ask is not None and i in asked else None)
    if len(said) > 2:
        said = [said[0], f"nor {len(said) - 1:,} other checkpoints"]
    if len(steps) < 2:
        return None, said
    names = list(named_leaves(step.params))
    sizes = [int(np.size(a)) for a in jax.tree.leaves(step.params)]
    groups, (gradients, changes) = grouped(
        names, sizes, [np.stack([one[k] for one in found]) for k in (1, 2)]
    )
    values = np.array([float(value) for value, _, _ in found])
    logged = [
        (int(line["step"]), line["loss"], line.get("val_loss"))
        for line in run.metrics()
        if "loss" in line
    ]
    answers = answers_of(step, told)
    at = None if step.state is None else int(step.state.step)
    explained = steps.index(at) if at in steps else None
    sizes_of = values, tuple(groups), gradients, changes
    return OverTraining(tuple(steps), len(folders), logged, *sizes_of, answers, explained), said


def _measured(objective: Any, optimizer: Any, state: State, batch: PyTree) -> Any:
    """The loss of a batch, and the sums of squares of each leaf of its gradient and its step."""
    value, grads = objective.value_and_grad(state.params, batch)
    after, _ = one_step(objective, optimizer)(state, batch)

    def squares(tree: PyTree) -> Any:
        leaves = jax.tree.leaves(tree)
        wide = [
            a.astype(jnp.float32) if a.dtype != jax.dtypes.float0 else jnp.zeros(()) for a in leaves
        ]
        return jnp.stack([jnp.sum(a * a) for a in wide])

    change = jax.tree.map(lambda a, b: a.astype(jnp.float32) - b, after.params, state.params)
    return value, squares(grads), squares(change)


def grouped(
    names: Sequence[str], sizes: Sequence[int], squares: Sequence[np.ndarray]
) -> tuple[list[str], list[np.ndarray]]:
    """Root mean squares (checkpoints, names) of sums of squares, by the beginning of the names
    where these are many."""
    parts = [name.split(".") for name in names]
    depth = max(map(len, parts))
    while depth > 1 and len({tuple(p[:depth]) for p in parts}) > NAMES:
        depth -= 1
    keys = [".".join(p[:depth]) for p in parts]
    groups = list(dict.fromkeys(keys))
    member = np.array([[key == group for group in groups] for key in keys], np.float64)
    count = np.maximum(np.array(sizes, np.float64) @ member, 1)
    return groups, [np.sqrt(np.asarray(a, np.float64) @ member / count) for a in squares]
