"""`fbp train`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

_OF_TASK = "(default: the task's)"


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network on a built-in task, or on a table of your own with --data and --target."""

    task: Annotated[
        Literal["digits", "convnet", "neuron", "curve", "spiral"], tyro.conf.Positional
    ] = "digits"
    """Handwritten digits; the same with convolutions; the worked example of one neuron; a curve;
    two spirals."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Train on a table instead: a .csv file with a line of names, or an .npz file of arrays."""
    target: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The column of the table to predict."""
    kind: Annotated[
        Literal["regression", "classification"] | None,
        tyro.conf.arg(
            metavar="{regression,classification}", help_behavior_hint="(default: inferred)"
        ),
    ] = None
    """What to do with the target."""

    name: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the task)")
    ] = None
    """The run's folder in --runs; never one that is there already."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = None
    """How many updates."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = None
    """How many examples an update."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the first weights and of the order of the examples."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint=_OF_TASK)] = None
    """The learning rate."""
    check: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Whether to compare the hand-written gradients with jax.grad before training."""
    runs: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where the runs' folders are."""

    def run(self) -> int:
        """Trains; a status of 1 says that the run had to stop early, 130 that Ctrl-C did it."""
        # Imported here, so that help and mistakes in the flags take no time.
        import time

        from fbp.cli._console import Console
        from fbp.train import TASKS, InputError, Settings, table_task, train

        if self.data is None and (self.target or self.kind):
            raise InputError("--target and --kind are of a table: expected --data FILE too")
        if self.data is not None and self.task != "digits":
            raise InputError(
                f"expected a task or --data FILE, got both {self.task} and {self.data}"
            )
        settings = Settings(
            self.name, self.steps, self.batch, self.seed, self.lr, self.check, self.runs
        )
        if self.data is None:
            task = TASKS[self.task]()
        elif self.target is None:
            raise InputError(f"--data {self.data}: expected --target NAME, the column to predict")
        else:
            task = table_task(self.data, self.target, self.kind)
        console = Console()
        started = time.perf_counter()
        with console:
            run, fit = train(task, settings, console)
        seconds = time.perf_counter() - started
        if fit.trouble is not None:
            console.say(fit.trouble)
        reached = console.reached(fit.metrics)
        console.say(f"{reached} after {fit.step:,} steps in {seconds:.1f} s; in {run.folder}")
        if fit.interrupted:
            return 130
        return 0 if fit.trouble is None else 1
