"""`fbp train`."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fbp.cli._console import Console

if TYPE_CHECKING:
    from fbp._signals import Signals

_OF_TASK = "(default: the task's)"
_OF_PRESET = "(default: the preset's)"
_TEXT = ("lstm", "gpt")
_PRETRAINED = ("gpt2", "llama")
# What a run that goes on takes anew.
_ANEW = ("steps", "eval_every", "save_every", "keep")


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
    seed: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 0)")] = (
        None
    )
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
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with a run that was stopped, as runs/digits, from its newest checkpoint. All settings
    are the run's; only --steps, --eval-every, --save-every and --keep may be given anew."""
    eval_every: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_TASK)] = (
        None
    )
    """Steps between evaluations. The weights of the best one are kept."""
    save_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Time between checkpoints; 0 saves only at the end."""
    keep: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """How many of the newest checkpoints to keep."""

    def run(self) -> int:
        """Trains, and returns the status: 1 if the run had to stop early, 130 if Ctrl-C did it."""
        from fbp._signals import Signals

        console = Console()

        def end(signum: int) -> None:
            console.ended_by(signum)
            os._exit(128 + signum)

        # Imports and compilation, which a signal would have to wait for, can be ended at once.
        with Signals(end) as signals, signals.meanwhile(lambda: None):
            asked = self if self.resume is None else self._resumed()
            return asked._train(console, signals)

    def _resumed(self) -> "Train":
        """The command that a run was made by, with what may be given anew."""
        from fbp.train import InputError, Run

        assert self.resume is not None
        command = Run(self.resume).config().get("command")
        known = {field.name: field for field in dataclasses.fields(self)}
        if not isinstance(command, dict) or not set(command) <= set(known):
            raise InputError(f"{self.resume}: expected a run of this version's fbp train to go on")
        for name, field in known.items():
            changed = getattr(self, name) != field.default
            if changed and name not in (*_ANEW, "resume", "check"):
                flag = "--" + name.replace("_", "-")
                said = f"{getattr(self, name)!r} as the task" if name == "task" else flag
                raise InputError(
                    f"{said} cannot be given where a run goes on: its settings are those of "
                    f"{self.resume}; only {', '.join('--' + n.replace('_', '-') for n in _ANEW)} "
                    "may be given anew"
                )
        given = {name: getattr(self, name) for name in (*_ANEW, "resume")}
        paths = {
            name: Path(command[name])
            for name in ("data", "weights", "runs")
            if command.get(name) is not None
        }
        return Train(**{**command, **paths, **given})

    def _command(self) -> dict[str, object]:
        """What config.json notes: the flags that are not at their defaults."""
        noted = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in (*_ANEW, "resume", "name", "runs"):
                noted[field.name] = str(value.resolve()) if isinstance(value, Path) else value
        return noted

    def _train(self, console: Console, signals: "Signals") -> int:
        import time

        from fbp.train import Settings, train, train_text

        settings = Settings(
            self.name,
            self.steps,
            self.batch,
            self.seed,
            self.lr,
            self.check,
            self.runs,
            self.eval_every,
            self.save_every,
            self.keep,
            self.resume,
            self._command(),
        )
        started = time.perf_counter()
        task = self._task()
        with console:
            made = train_text if hasattr(task, "tokenizer") else train
            run, fit = made(task, settings, console, signals)
        seconds = time.perf_counter() - started
        if fit.trouble is not None:
            console.say(fit.trouble)
        reached = console.reached(fit.metrics)
        console.say(f"{reached} after {fit.last_step:,} steps in {seconds:.1f} s; in {run.folder}")
        return fit.status

    def _task(self) -> Any:
        """The task: of a table or of a text."""
        from fbp.train import (
            TASKS,
            InputError,
            Pretrained,
            Sizes,
            table_task,
            text_task,
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
        if is_text:
            if self.weights is not None:
                start = Pretrained.load(self.weights, self.task)
                return tuning_task(start, self.data, self.context, self.lora)
            return text_task(self.task, self.data, Sizes(**sizes))
        if self.data is None:
            return TASKS[self.task]()
        if self.target is None:
            raise InputError(f"--data {self.data}: expected --target NAME, the column to predict")
        return table_task(self.data, self.target, self.kind)
