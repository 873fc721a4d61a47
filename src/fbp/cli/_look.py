"""`fbp runs`, `fbp plot` and `fbp compare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fbp.cli._step import step_of_run, task_of_run


@dataclasses.dataclass(frozen=True)
class Runs:
    """Show what the runs in a folder have reached."""

    runs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where the runs' folders are."""

    def run(self) -> int:
        """Prints a table."""
        from fbp.cli._console import Console
        from fbp.train._curves import table_of

        rows = table_of(self.runs)
        console = Console()
        if len(rows) == 1:
            console.say(f"no runs in {self.runs}")
        else:
            console.table(rows)
        return 0


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw a run: its metrics, its answers, or a step of it.

    The metrics can be drawn while it is training, too.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, as runs/digits, or, for a step, of a model."""
    what: Literal["metrics", "answers", "gradients", "attention"] = "metrics"
    """The answers are those on held-out rows, and the learned function of one or two inputs. The
    gradients of a step are their sizes, layer by layer; attention is what each token looks at."""
    text: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Of a step of a language model: the text to learn from."""
    rows: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """Of a step of another run: how many rows of the training data."""
    step: Annotated[
        int | None, tyro.conf.arg(metavar="K", help_behavior_hint="(default: the best weights)")
    ] = None
    """The checkpoint whose step to draw."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", help_behavior_hint="(default: RUN.png, or RUN-gradients.png)"
        ),
    ] = None
    """The .png or .svg file to write; never one that is there already."""

    def run(self) -> int:
        """Writes a picture."""
        from fbp._picture import require_new_picture
        from fbp.cli._console import Console
        from fbp.train import InputError
        from fbp.train._picture import draw_answers
        from fbp.train._predict import answering
        from fbp.train._stored import load

        name = self.run_folder.resolve().name
        if self.what == "metrics":
            return _draw([self.run_folder], self.out or Path(f"{name}.png"))
        out = require_new_picture(self.out or Path(f"{name}-{self.what}.png"))
        if not self.run_folder.is_dir():
            raise InputError(f"{self.run_folder}: expected the folder of a run, got none")
        if self.what == "answers":
            model, params, _ = load(self.run_folder)
            task = task_of_run(self.run_folder)
            picture = draw_answers(task, answering(model, params))
        else:
            from fbp.explainer import explain

            found = step_of_run(self.run_folder, self.text, self.rows, self.step)
            step = explain(found.objective, found.params, found.batch, prove=False)
            picture = step.plot(self.what, found.said, found.tokens or ())
        picture.save(out)
        Console().say(f"in {out}")
        return 0


@dataclasses.dataclass(frozen=True)
class Compare:
    """Draw the metrics of several runs in one picture."""

    run_folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN ...")
    ]
    """The folders of the runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("compare.png")
    """The .png or .svg file to write; never one that is there already."""

    def run(self) -> int:
        """Writes a picture, and prints a line for each run."""
        return _draw(list(self.run_folders), self.out)


def _draw(folders: list[Path], out: Path) -> int:
    from fbp._picture import require_new_picture
    from fbp.cli._console import Console
    from fbp.train import InputError
    from fbp.train._curves import draw_runs, lines_of, watched

    if not folders:
        raise InputError("expected the folder of a run or more, got none")
    require_new_picture(out)
    runs: dict[str, list[dict[str, float]]] = {}
    rows: list[tuple[str, ...]] = [("run", "steps", "best", "at")]
    for folder in folders:
        lines = lines_of(folder)
        name, best = folder.name, min(lines, key=lambda line: line[watched(lines)])
        runs[name if name not in runs else str(folder)] = lines
        metric = watched(lines)
        rows.append(
            (str(folder), f"{lines[-1]['step']}", f"{metric} {best[metric]:.4g}", f"{best['step']}")
        )
    draw_runs(runs).save(out)
    console = Console()
    console.table(rows)
    console.say(f"in {out}")
    return 0
