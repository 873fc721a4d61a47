"""What became of a run over its checkpoints: gradients, steps and answers at each."""

from collections.abc import Callable, Sequence
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
    told: list[Any] = []
    ask = _asking(step)
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
    answers = _answers(step, told)
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


def _asking(step: StepOfRun) -> Callable[[Any], Any] | None:
    """What gives the answer of params, by one program; None where answers cannot be shown."""
    if step.language is not None:
        text_model, tokenizer = step.language
        choice = Choice(temperature=0, vocab=tokenizer.vocab)
        prompt, key = _prompt(step), jax.random.key(0)

        def write(params: Any) -> str:
            return tokenizer.decode(text_model.generate(params, prompt, WRITTEN, key, choice))

        return write
    kind = _kind(step.task)
    if kind is None:
        return None
    x, model = kind(step.task), build_model(step.task.model_spec())
    forward = jax.jit(lambda params, x: model.forward(params, x)[0])
    return lambda params: np.asarray(forward(params.model, x))


def _kind(task: Any) -> Callable[[Task], np.ndarray] | None:
    """What makes the inputs to ask for: those of a plane, or of a line."""
    if not isinstance(task, Task) or any(column.category for column in task.encoding.columns):
        return None
    inputs, classes = len(task.encoding.columns), len(task.encoding.classes)
    if task.encoding.kind == "classification":
        return _plane if inputs == 2 and classes <= CLASSES else None
    return _line if inputs == 1 else None


def _answers(step: StepOfRun, told: list[Any]) -> Regions | Curve | Samples | None:
    if step.language is not None:
        at = [i for i, text in enumerate(told) if text is not None]
        prompt = step.language[1].decode(_prompt(step))
        return Samples(prompt, tuple(at), tuple(told[i] for i in at))
    kind = _kind(step.task)
    if kind is _plane:
        return _regions(step.task, told)
    return _curve(step.task, told) if kind is _line else None


def _prompt(step: StepOfRun) -> np.ndarray:
    """The first third of the text."""
    ids = np.asarray(step.batch[0][0])
    return ids[: max(1, len(ids) // 3)]


def _plane(task: Task) -> np.ndarray:
    """Places all over the plane of two inputs, row by row from the lowest."""
    x, _ = task.train
    across, up = np.meshgrid(*(np.linspace(*range_of(x[:, i]), SIDE) for i in range(2)))
    return np.stack([across.ravel(), up.ravel()], -1).astype(np.float32)


def _line(task: Task) -> np.ndarray:
    return np.linspace(*range_of(task.train[0][:, 0]), PLACES, dtype=np.float32)[:, None]


def _regions(task: Task, told: list[np.ndarray]) -> Regions:
    x, target = task.train
    first, second = task.encoding.columns
    offset, scale = np.array([[c.offset, c.scale] for c in (first, second)]).T
    low, high = np.array([range_of(x[:, i]) for i in range(2)]).T * scale + offset
    some = evenly(len(x), EXAMPLES)
    return Regions(
        (first.name, second.name),
        (float(low[0]), float(low[1])),
        (float(high[0]), float(high[1])),
        task.encoding.target,
        task.encoding.classes,
        np.stack([y.argmax(-1).reshape(SIDE, SIDE) for y in told]),
        x[some] * scale + offset,
        np.asarray(target)[some],
    )


def _curve(task: Task, told: list[np.ndarray]) -> Curve:
    x, target = task.train
    column, encoding = task.encoding.columns[0], task.encoding
    some = evenly(len(x), EXAMPLES)
    points = x[some, 0] * column.scale + column.offset, encoding.decode(target[some])["prediction"]
    return Curve(
        (column.name, encoding.target),
        _line(task)[:, 0] * column.scale + column.offset,
        np.stack([encoding.decode(y)["prediction"] for y in told]),
        np.stack(points, -1),
    )
