"""`fbp runs`, `fbp plot` and `fbp compare`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


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
    """Draw the metrics of a run, of one that is training too."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, as runs/digits."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN.png)")
    ] = None
    """The .png file to write; never one that is there already."""

    def run(self) -> int:
        """Writes a picture."""
        return _draw([self.run_folder], self.out or Path(f"{self.run_folder.name}.png"))


@dataclasses.dataclass(frozen=True)
class Compare:
    """Draw the metrics of several runs in one picture."""

    run_folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN ...")
    ]
    """The folders of the runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("compare.png")
    """The .png file to write; never one that is there already."""

    def run(self) -> int:
        """Writes a picture, and prints a line for each run."""
        return _draw(list(self.run_folders), self.out)


def _draw(folders: list[Path], out: Path) -> int:
    import os

    from fbp.cli._console import Console
    from fbp.train import InputError
    from fbp.train._curves import draw_runs, lines_of, watched

    if not folders:
        raise InputError("expected the folder of a run or more, got none")
    if os.path.lexists(out):
        raise InputError(f"{out} is there already and is kept: choose another --out")
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
    png = draw_runs(runs)
    try:
        with open(out, "xb") as file:
            file.write(png)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    console = Console()
    console.table(rows)
    console.say(f"in {out}")
    return 0
