"""`fbp train`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

_OF_TASK = "(default: the task's)"
_OF_PRESET = "(default: the preset's)"
_TEXT = ("lstm", "gpt")
_PRETRAINED = ("gpt2", "llama")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network on a built-in task, on a table of your own with --data and --target, or a
    language model, lstm or gpt, on text."""

    task: Annotated[
        Literal["digits", "convnet", "neuron", "curve", "spiral", "lstm", "gpt", "gpt2", "llama"],
        tyro.conf.Positional,
    ] = "digits"
    """Handwritten digits; the same with convolutions; the worked example of one neuron; a curve;
    two spirals; language models, on Python's own source code unless there is --data; and
    pretrained ones to go on from, with --weights."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Train on a table instead: a .csv file with a line of names, or an .npz file of arrays. For
    lstm and gpt: a file or a folder of text."""
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
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: small)")
    ] = None
    """Of lstm and gpt: tiny, small or medium, a size and settings for it."""
    layers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of lstm and gpt: how many layers."""
    heads: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of gpt: heads of attention."""
    width: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of lstm and gpt: numbers a token is made of."""
    context: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_PRESET)] = None
    """Of lstm and gpt: tokens an example."""
    weights: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required by them)")
    ] = None
    """Of gpt2 and llama: the folder of the model to start from."""
    lora: Annotated[
        int | None, tyro.conf.arg(metavar="RANK", help_behavior_hint="(default: every parameter)")
    ] = None
    """Of gpt2 and llama: tune by LoRA of this rank."""
    check: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Whether to compare the hand-written gradients with jax.grad before training."""
    runs: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where the runs' folders are."""

    def run(self) -> int:
        """Trains, and returns the status: 1 if the run had to stop early, 130 if Ctrl-C did it."""
        # Imported here, so that help and errors in the flags are shown at once.
        import time

        from fbp.cli._console import Console
        from fbp.train import (
            TASKS,
            InputError,
            Pretrained,
            Settings,
            Sizes,
            table_task,
            text_task,
            train,
            train_text,
            tuning_task,
        )

        sizes = {name: getattr(self, name) for name in Sizes.__dataclass_fields__}
        is_pretrained = self.task in _PRETRAINED
        is_text = self.task in _TEXT or is_pretrained
        if is_pretrained and self.weights is None:
            raise InputError(f"{self.task}: expected --weights FOLDER, the model to start from")
        if not is_pretrained and (self.weights is not None or self.lora is not None):
            raise InputError(f"--weights and --lora are of gpt2 and llama, not of {self.task}")
        if is_pretrained and (
            given := [n for n, v in sizes.items() if v is not None and n != "context"]
        ):
            raise InputError(f"--{given[0]} is not of {self.task}: its weights say what it is")
        if not is_text and (given := [name for name, value in sizes.items() if value is not None]):
            raise InputError(f"--{given[0]} is of {' and '.join(_TEXT)}, not of {self.task}")
        if is_text and (self.target or self.kind):
            raise InputError(f"--target and --kind are of a table, not of {self.task}")
        if self.data is None and (self.target or self.kind):
            raise InputError("--target and --kind are of a table: expected --data FILE too")
        if self.data is not None and self.task != "digits" and not is_text:
            raise InputError(
                f"expected a task or --data FILE, got both {self.task} and {self.data}"
            )
        settings = Settings(
            self.name, self.steps, self.batch, self.seed, self.lr, self.check, self.runs
        )
        console = Console()
        started = time.perf_counter()
        if is_text:
            if self.weights is not None:
                start = Pretrained.load(self.weights, self.task)
                text = tuning_task(start, self.data, self.context, self.lora)
            else:
                text = text_task(self.task, self.data, Sizes(**sizes))
            with console:
                run, fit = train_text(text, settings, console)
        else:
            if self.data is None:
                task = TASKS[self.task]()
            elif self.target is None:
                raise InputError(
                    f"--data {self.data}: expected --target NAME, the column to predict"
                )
            else:
                task = table_task(self.data, self.target, self.kind)
            with console:
                run, fit = train(task, settings, console)
        seconds = time.perf_counter() - started
        if fit.trouble is not None:
            console.say(fit.trouble)
        reached = console.reached(fit.metrics)
        console.say(f"{reached} after {fit.last_step:,} steps in {seconds:.1f} s; in {run.folder}")
        if fit.interrupted:
            return 130
        return 0 if fit.trouble is None else 1
