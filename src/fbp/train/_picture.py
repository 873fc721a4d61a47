"""The picture of a run: plots of its metrics and of the learned function."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fbp._errors import InputError
from fbp._picture import BLUE, GREY, ORANGE, Panel, Picture, plain, side_by_side
from fbp.train._picture_answers import draw_confusion, draw_predicted
from fbp.train._tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_run(
    task: Task, metrics: list[dict[str, float]], predict: Callable[[np.ndarray], np.ndarray]
) -> Picture:
    """Draws the loss; for classification, the accuracy; the answers on held-out rows
    beside the right ones; and the learned function of a regression with one numeric input or a
    classification with two.

    Args:
      task: the task that was trained on.
      metrics: the lines of the run's metrics.
      predict: from x (rows, columns) to y (rows, outputs).
    """
    classifies = task.encoding.kind == "classification"
    # Members are measured by training rows that they left out.
    measured = "held out" if task.members is None else "left out"
    panels: list[Panel] = [lambda ax: _draw_losses(ax, metrics, measured)]
    if classifies:
        panels.append(lambda ax: _draw_accuracy(ax, metrics, measured))
    return side_by_side(task.name, [*panels, *_answers(task, predict)])


def draw_answers(task: Task, predict: Callable[[np.ndarray], np.ndarray]) -> Picture:
    """Draws the answers alone: the panels of `draw_run` beside those of its metrics.

    Raises:
      InputError: the task holds nothing out, and its function cannot be drawn.
    """
    panels = _answers(task, predict)
    if not panels:
        raise InputError(f"{task.name}: expected held-out rows, or one or two inputs, to draw")
    return side_by_side(task.name, panels)


def _answers(task: Task, predict: Callable[[np.ndarray], np.ndarray]) -> list[Panel]:
    classifies = task.encoding.kind == "classification"
    inputs = len(task.encoding.columns)
    in_plane = not any(column.category for column in task.encoding.columns)
    panels: list[Panel] = []
    if task.held_out is not None:
        x, target = task.held_out
        draw = draw_confusion if classifies else draw_predicted
        panels.append(lambda ax: draw(ax, task.encoding, predict(x), target))
    if inputs == 1 and in_plane and not classifies:
        panels.append(lambda ax: _draw_curve(ax, task, predict))
    if inputs == 2 and in_plane and classifies:
        panels.append(lambda ax: _draw_boundary(ax, task, predict))
    return panels


def draw_text_run(name: str, metrics: list[dict[str, float]]) -> Picture:
    """Draws the loss of a run on text."""
    return side_by_side(name, [lambda ax: _draw_losses(ax, metrics)])


def _draw_losses(ax: "Axes", metrics: list[dict[str, float]], measured: str = "held out") -> None:
    _draw_metric(ax, metrics, "loss", measured)
    ax.set(title="loss", xlabel="step")
    values = [line[name] for line in metrics for name in ("loss", "val_loss") if name in line]
    if min(values) > 0 and max(values) > 10 * min(values):
        ax.set_yscale("log")


def _draw_accuracy(ax: "Axes", metrics: list[dict[str, float]], measured: str) -> None:
    _draw_metric(ax, metrics, "accuracy", measured)
    ax.set(title="accuracy", xlabel="step", ylim=(None, 1.02))


def _draw_metric(ax: "Axes", metrics: list[dict[str, float]], name: str, measured: str) -> None:
    steps = [line["step"] for line in metrics]
    marker = "o" if len(steps) == 1 else None
    ax.plot(steps, [line[name] for line in metrics], color=BLUE, marker=marker, label="training")
    if f"val_{name}" in metrics[0]:
        values = [line[f"val_{name}"] for line in metrics]
        ax.plot(steps, values, color=ORANGE, marker=marker, label=measured)
    ax.legend(frameon=False)


def _draw_curve(ax: "Axes", task: Task, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    x, target = task.train
    low, high = range_of(x[:, 0])
    grid = np.linspace(low, high, 400, dtype=np.float32)[:, None]
    column, encoding = task.encoding.columns[0], task.encoding

    def units(cells: np.ndarray) -> np.ndarray:
        return cells * column.scale + column.offset

    ax.scatter(
        units(x),
        encoding.decode(target)["prediction"],
        s=8 if len(x) > 50 else 40,
        color=GREY,
        label="data",
    )
    ax.plot(units(grid), encoding.decode(predict(grid))["prediction"], color=BLUE, label="learned")
    ax.set(title="what was learned", xlabel=plain(column.name), ylabel=plain(encoding.target))
    ax.legend(frameon=False)


def _draw_boundary(ax: "Axes", task: Task, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    x, target = task.train
    (low, high), (bottom, top) = range_of(x[:, 0]), range_of(x[:, 1])
    a, b = np.meshgrid(np.linspace(low, high, 200), np.linspace(bottom, top, 200))
    classes = predict(np.stack([a.ravel(), b.ravel()], -1).astype(np.float32)).argmax(-1)
    first, second = task.encoding.columns

    def units(cells: np.ndarray, i: int) -> np.ndarray:
        return cells * task.encoding.columns[i].scale + task.encoding.columns[i].offset

    # tab10 and tab20 have distinct colours without an order; more classes than that take some of
    # a rainbow, so that no two share one.
    n = len(task.encoding.classes)
    map_name = "tab10" if n <= 10 else "tab20" if n <= 20 else "turbo"
    most = {"tab10": 9, "tab20": 19}.get(map_name, n - 1)
    style: dict[str, Any] = {"cmap": map_name, "vmin": 0, "vmax": most}
    ax.pcolormesh(units(a, 0), units(b, 1), classes.reshape(a.shape), alpha=0.3, **style)
    points = ax.scatter(units(x[:, 0], 0), units(x[:, 1], 1), c=target, s=8, **style)
    if n <= 20:
        handles, _ = points.legend_elements(num=np.unique(target).tolist())
        labels = [plain(task.encoding.classes[i]) for i in np.unique(target)]
        ax.legend(
            handles, labels, title=plain(task.encoding.target), fontsize="small", ncols=1 + n // 11
        )
    ax.set(title="decision boundary", xlabel=plain(first.name), ylabel=plain(second.name))


def range_of(cells: np.ndarray) -> tuple[float, float]:
    """What a picture shows of an axis: the numbers on it, and a margin."""
    margin = 0.1 * float(np.ptp(cells)) or 1.0
    return float(cells.min()) - margin, float(cells.max()) + margin
