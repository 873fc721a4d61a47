"""What a run's model answers, to be asked at each of its checkpoints."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbp.explainer._training import Curve, Regions, Samples
from fbp.text import Choice
from fbp.train._picture import range_of
from fbp.train._step_of_run import StepOfRun
from fbp.train._tasks import Task, build_model

# Places of a plane along each side, and of a line; examples that are drawn; tokens of a text; and
# classes that have a letter each.
SIDE, PLACES, EXAMPLES, WRITTEN, CLASSES = 40, 120, 300, 60, 36


def evenly(n: int, most: int) -> list[int]:
    """At most so many of n places, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


def asking(step: StepOfRun) -> Callable[[Any], Any] | None:
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


def answers_of(step: StepOfRun, told: list[Any]) -> Regions | Curve | Samples | None:
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
