"""What became of a run over its checkpoints: gradients, steps and answers at each."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._errors import InputError
from fbp._layer import PyTree
from fbp._tree import named_leaves
from fbp.explainer._training import Curve, OverTraining, Regions, Samples
from fbp.step import State
from fbp.step._step import one_step
from fbp.text import Choice
from fbp.train._at import shown
from fbp.train._picture import range_of
from fbp.train._run import Run
from fbp.train._step_of_run import StepOfRun, optimizer_of, state_in
from fbp.train._tasks import Task, build_model
from fbp.train.checkpoints import checkpoints_in

# The most checkpoints that are measured, names that are told apart, places of a plane along each
# side and of a line, examples that are drawn, and checkpoints that write a text of so many tokens.
CHECKPOINTS, NAMES, SIDE, PLACES, EXAMPLES, TEXTS, WRITTEN = 60, 40, 40, 120, 300, 12, 60
# Classes that have a letter each.
CLASSES = 36


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
    params = []
    measure = jax.jit(lambda state, batch: _measured(step.objective, optimizer, state, batch))
    for i in evenly(len(folders), CHECKPOINTS):
        try:
            state = state_in(folders[i], step.params, optimizer)
        except InputError as error:
            said.append(f"not shown over training: {error}")
            continue
        steps.append(int(folders[i].name))
        found.append(jax.tree.map(np.asarray, measure(state, step.batch)))
        params.append(jax.tree.map(np.asarray, shown(state)))
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
    answers = _answers(step, params)
    args = tuple(steps), len(folders), logged, values, tuple(groups), gradients, changes, answers
    return OverTraining(*args), said


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


def evenly(n: int, most: int) -> list[int]:
    """At most so many of n places, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


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


def _answers(step: StepOfRun, params: list[Any]) -> Regions | Curve | Samples | None:
    if step.language is not None:
        return _samples(step, params)
    if not isinstance(step.task, Task):
        return None
    encoding = step.task.encoding
    if any(column.category for column in encoding.columns):
        return None
    classifies = encoding.kind == "classification"
    if len(encoding.columns) == 2 and classifies and len(encoding.classes) <= CLASSES:
        return _regions(step.task, params)
    if len(encoding.columns) == 1 and not classifies:
        return _curve(step.task, params)
    return None


def _told(task: Task, params: list[Any], x: np.ndarray) -> list[np.ndarray]:
    """The answers to x at each checkpoint, by one program."""
    model = build_model(task.model_spec())
    forward = jax.jit(lambda params, x: model.forward(params, x)[0])
    return [np.asarray(forward(one.model, x)) for one in params]


def _regions(task: Task, params: list[Any]) -> Regions:
    x, target = task.train
    ranges = [range_of(x[:, i]) for i in range(2)]
    across, up = np.meshgrid(*(np.linspace(*ends, SIDE) for ends in ranges))
    plane = np.stack([across.ravel(), up.ravel()], -1).astype(np.float32)
    grids = np.stack([y.argmax(-1).reshape(SIDE, SIDE) for y in _told(task, params, plane)])
    some = evenly(len(x), EXAMPLES)
    offset, scale = (
        np.array([getattr(column, what) for column in task.encoding.columns])
        for what in ("offset", "scale")
    )
    low, high = (np.array([ends[i] for ends in ranges]) * scale + offset for i in range(2))
    first, second = task.encoding.columns
    return Regions(
        (first.name, second.name),
        tuple(low.tolist()),
        tuple(high.tolist()),
        task.encoding.target,
        task.encoding.classes,
        grids,
        x[some] * scale + offset,
        np.asarray(target)[some],
    )


def _curve(task: Task, params: list[Any]) -> Curve:
    x, target = task.train
    column, encoding = task.encoding.columns[0], task.encoding
    line = np.linspace(*range_of(x[:, 0]), PLACES, dtype=np.float32)[:, None]
    told = [encoding.decode(y)["prediction"] for y in _told(task, params, line)]
    some = evenly(len(x), EXAMPLES)
    points = x[some, 0] * column.scale + column.offset, encoding.decode(target[some])["prediction"]
    return Curve(
        (column.name, encoding.target),
        line[:, 0] * column.scale + column.offset,
        np.stack(told),
        np.stack(points, -1),
    )


def _samples(step: StepOfRun, params: list[Any]) -> Samples:
    assert step.language is not None
    text_model, tokenizer = step.language
    ids = np.asarray(step.batch[0][0])
    prompt = ids[: max(1, len(ids) // 3)]
    choice = Choice(temperature=0, vocab=tokenizer.vocab)
    at = evenly(len(params), TEXTS)
    key = jax.random.key(0)
    texts = [
        tokenizer.decode(text_model.generate(params[i], prompt, WRITTEN, key, choice)) for i in at
    ]
    return Samples(tokenizer.decode(prompt), tuple(at), tuple(texts))
