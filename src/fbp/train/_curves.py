"""What runs have reached, as a table and as pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fbp._errors import InputError
from fbp._picture import Panel, Picture, plain, side_by_side
from fbp.train._run import CONFIG, MANIFEST, METRICS, Run
from fbp.train.checkpoints import checkpoints_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct colours without an order.
COLOURS = ("#2864a5", "#d9731a", "#3c8d5a", "#a63d57", "#7a5ba8", "#8a6d3b", "#4aa3b5", "#8a8a8a")


def table_of(runs: Path) -> list[tuple[str, ...]]:
    """A line for each run in a folder, the header first.

    Raises:
      InputError: the folder cannot be read.
    """
    try:
        folders = sorted(path for path in runs.iterdir() if (path / CONFIG).exists())
    except OSError as error:
        raise InputError(f"{runs}: cannot be read: {error.strerror}") from None
    rows: list[tuple[str, ...]] = [("run", "task", "steps", "of", "best", "at", "last", "")]
    for folder in folders:
        try:
            rows.append(_row(folder))
        except (InputError, ValueError, TypeError, KeyError) as error:
            rows.append((folder.name, "", "", "", "", "", "", f"damaged: {error}"[:60]))
    return rows


def _row(folder: Path) -> tuple[str, ...]:
    run = Run(folder)
    config, lines = run.config(), run.metrics()
    task, steps = str(config.get("task", "")), f"{config.get('steps', '')}"
    if not lines:
        return folder.name, task, "0", steps, "", "", "", "not begun"
    name = watched(lines)
    best = min(lines, key=lambda line: line[name])
    saved = checkpoints_in(run.steps)
    reached = max(int(lines[-1]["step"]), int(saved[0].name) if saved else 0)
    ended = (folder / MANIFEST).exists()
    state = "" if ended and str(reached) == steps else "stopped" if ended else "not ended"
    return (
        *(folder.name, task, str(reached), steps, f"{name} {best[name]:.4g}"),
        *(str(best["step"]), f"{lines[-1][name]:.4g}", state),
    )


def watched(lines: Sequence[dict[str, float]]) -> str:
    """The metric that a run is judged by."""
    return "val_loss" if "val_loss" in lines[0] else "loss"


def lines_of(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run.

    Raises:
      InputError: the folder is no run, or its log is damaged or empty.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder}: expected a run's folder, with {CONFIG}")
    try:
        lines = Run(folder).metrics()
    except json.JSONDecodeError:
        raise InputError(f"{folder / METRICS}: expected JSON in each line: damaged?") from None
    if not lines:
        raise InputError(f"{folder / METRICS}: expected a line or more, got none")
    return lines


def draw_runs(runs: dict[str, list[dict[str, float]]]) -> Picture:
    """A panel for each kind of metric, a colour for each run; training thin, held out
    thick."""
    kinds: dict[str, None] = {}
    for lines in runs.values():
        for name in lines[0]:
            if name not in ("step", "tokens_per_second"):
                kinds[name.removeprefix("val_")] = None

    def panel(kind: str) -> Panel:
        def draw(ax: "Axes") -> None:
            for (name, lines), colour in zip(runs.items(), _colours(len(runs)), strict=True):
                for metric, width in ((kind, 0.8), (f"val_{kind}", 1.8)):
                    points = [(line["step"], line[metric]) for line in lines if metric in line]
                    if points:
                        label = plain(name) if width > 1 or f"val_{kind}" not in lines[0] else None
                        ax.plot(*zip(*points, strict=True), color=colour, lw=width, label=label)
            values = [
                line[metric]
                for lines in runs.values()
                for line in lines
                for metric in (kind, f"val_{kind}")
                if metric in line
            ]
            if min(values) > 0 and max(values) > 10 * min(values):
                ax.set_yscale("log")
            ax.set(title=kind.replace("_", " "), xlabel="step")
            ax.legend(frameon=False, fontsize="small")

        return draw

    return side_by_side(", ".join(runs), [panel(kind) for kind in kinds])


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
