"""`fbp train`."""

import dataclasses
import difflib
import functools
import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbp.cli._config_file import printed
from fbp.cli._console import Console
from fbp.cli._knobs import Knobs
from fbp.cli._train_flags import Flags

if TYPE_CHECKING:
    from fbp._signals import Signals

_TEXT = ("lstm", "gpt")
_PRETRAINED = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
# What is not of the run, but of one call.
_OF_A_CALL = ("resume", "name", "runs", "config", "print_config", "dry_run")
# What a run that goes on takes anew.
_ANEW = (
    *("steps", "eval_every", "eval_seconds", "patience", "save_every", "keep", "max_time"),
    "mesh",
)


@dataclasses.dataclass(frozen=True)
class Train(Knobs, Flags):
    """Train a network on a built-in task, on a table of your own with --data and --target, or a
    language model, lstm or gpt, on text."""

    def run(self) -> int:
        """Trains, and returns the status: 1 if the run had to stop early, 130 if Ctrl-C did it."""
        from fbp._signals import Signals

        console = Console()
        if self.print_config:
            console.say(printed(self))
            return 0

        def end(signum: int) -> None:
            self._abandon()
            console.ended_by(signum, signals.said)
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
        given = {
            name: getattr(self, name)
            for name in (*_ANEW, "resume", "check")
            if getattr(self, name) != known[name].default
        }
        # Of these two, the one that is given anew.
        for one, other in (("eval_every", "eval_seconds"), ("eval_seconds", "eval_every")):
            if one in given:
                command = {name: value for name, value in command.items() if name != other}
        paths: dict[str, Any] = {
            name: Path(command[name])
            for name in ("weights", "runs")
            if command.get(name) is not None
        }
        data = command.get("data")
        if data is not None:
            paths["data"] = tuple(map(Path, [data] if isinstance(data, str) else data))
        return Train(**{**command, **paths, **given})

    def _command(self) -> dict[str, object]:
        """What config.json notes: the flags that are not at their defaults."""
        noted = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in _OF_A_CALL:
                noted[field.name] = str(value.resolve()) if isinstance(value, Path) else value
        if self.data:
            data = [_from_anywhere(path) for path in self.data]
            noted["data"] = data[0] if len(data) == 1 else data
        return noted

    @property
    def _tokens(self) -> Path:
        """Where tokens are kept for other runs."""
        return (self.runs if self.resume is None else self.resume.parent) / ".tokens"

    def _abandon(self) -> None:
        """Leaves nothing half written of what is no run's."""
        cache = sys.modules.get("fbp.train.text._cache")
        if cache is not None:  # else nothing was written; a signal must not wait for an import
            cache.abandon(self._tokens)

    def _train(self, console: Console, signals: "Signals") -> int:
        import tempfile
        import time

        from fbp.train import Made, Settings, train, train_made, train_text

        settings = Settings(
            self.name,
            self.steps,
            self.batch,
            self.seed,
            self.lr,
            self.check,
            self.runs,
            self.eval_every,
            self.eval_seconds,
            self.save_every,
            self.keep,
            self.resume,
            self.recipe,
            self.accumulate,
            self.bf16,
            self.in_backward,
            self.patience,
            self.max_time,
            self.overfit_batches,
            self.track,
            self._command(),
            self.mesh,
        )
        started = time.perf_counter()
        if self.mesh is not None and self.resume is None:
            self._require_mesh()
        task = self.made_task(console)
        kind: Any = train_text if hasattr(task, "tokenizer") else train
        if isinstance(task, Made):
            kind = train_made
        if self.dry_run:
            with console, tempfile.TemporaryDirectory() as runs:
                few: Any = {"runs": Path(runs), "name": None, "steps": 2, "eval_every": None}
                _, fit = kind(task, dataclasses.replace(settings, **few), console, signals)
            console.say(fit.trouble or f"{fit.last_step} steps went well; nothing is kept")
            return fit.status
        with console:
            run, fit = kind(task, settings, console, signals)
        seconds = time.perf_counter() - started
        if fit.trouble is not None:
            console.say(fit.trouble)
        reached = console.reached(fit.metrics)
        console.say(f"{reached} after {fit.last_step:,} steps in {seconds:.1f} s; in {run.folder}")
        return fit.status

    def _require_mesh(self) -> None:
        """Raises InputError, before anything is read, unless there is such a mesh here."""
        from fbp.mesh import make_mesh
        from fbp.train import InputError

        try:
            make_mesh(str(self.mesh))
        except InputError as error:
            raise InputError(f"--mesh {self.mesh}: {error}") from None

    def made_task(self, console: Console | None = None) -> Any:
        """The task: of a table or of a text."""
        from fbp.train import (
            TASKS,
            Beside,
            InputError,
            Pretrained,
            Sizes,
            table_task,
            text_task,
            tuning_task,
        )

        known = (*TASKS, *_TEXT, *_PRETRAINED)
        if ":" not in self.task and self.task not in known:
            near = difflib.get_close_matches(self.task, known, 1)
            hint = f": did you mean {near[0]}?" if near else ", or pkg.module:make"
            raise InputError(f"{self.task}: expected one of {', '.join(known)}{hint}")
        if self.pack and self.task not in (*_TEXT, *_PRETRAINED):
            raise InputError(f"--pack is of gpt, llama and their like, not of {self.task}")
        if ":" in self.task:
            return self._made()
        sizes = {name: getattr(self, name) for name in Sizes.__dataclass_fields__}
        # A llama is tuned with --weights, and without them trained from the start.
        is_pretrained = self.task in _PRETRAINED and not (
            self.task == "llama" and self.weights is None
        )
        is_text = self.task in (*_TEXT, *_PRETRAINED)
        if is_pretrained and self.weights is None:
            raise InputError(f"{self.task}: expected --weights FOLDER, the model to start from")
        if self.task == "llama" and self.lora is not None and not is_pretrained:
            raise InputError("llama: expected --weights FOLDER, the model to tune by --lora")
        if not is_pretrained and (self.weights is not None or self.lora is not None):
            raise InputError(
                f"--weights and --lora are of gpt2, llama and their like, not of {self.task}"
            )
        if is_pretrained and (
            given := [n for n, v in sizes.items() if v is not None and n != "context"]
        ):
            raise InputError(
                f"--{_flag(given[0])} is not of {self.task}: its weights say what it is"
            )
        if not is_text and (given := [name for name, value in sizes.items() if value is not None]):
            raise InputError(f"--{_flag(given[0])} is of {' and '.join(_TEXT)}, not of {self.task}")
        if self.tokenizer is not None and (is_pretrained or not is_text):
            raise InputError(f"--tokenizer is of lstm, gpt and llama, not of {self.task}")
        of_table = [n for n in ("target", "kind", "inputs") if getattr(self, n)]
        if is_text and of_table:
            raise InputError(f"--{of_table[0]} is of a table, not of {self.task}")
        if self.data is None and of_table:
            raise InputError(f"--{of_table[0]} is of a table: expected --data FILE too")
        if self.data is not None and self.task != "digits" and not is_text:
            raise InputError(
                f"expected a task or --data FILE, got both {self.task} and {self._one_file()}"
            )
        if is_text:
            told = None if console is None else functools.partial(console.counting, "tokenising")
            beside = Beside(None if self.dry_run or console is None else self._tokens, told)
            data = self.data[0] if self.data and len(self.data) == 1 else self.data
            if self.weights is not None:
                start = Pretrained.load(self.weights, self.task)
                return tuning_task(start, data, self.context, self.lora, self.pack, beside)
            tokenizer = self._tokenizer_of_run() or self.tokenizer or "bytes"
            return text_task(self.task, data, Sizes(**sizes), tokenizer, self.pack, beside)
        if self.data is None:
            return TASKS[self.task]()
        if self.target is None:
            file = self._one_file()
            raise InputError(f"--data {file}: expected --target NAME, the column to predict")
        return table_task(self._one_file(), self.target, self.kind, self._inputs())

    def _one_file(self) -> Path:
        from fbp.train import InputError

        assert self.data is not None
        if len(self.data) != 1:
            raise InputError(
                f"--data: expected one file, got {len(self.data)}: several are for the text of "
                "language models, as in fbp train gpt --data a.txt b.txt"
            )
        return self.data[0]

    def _tokenizer_of_run(self) -> Any:
        """That of a file which a run that goes on has noted: the file itself may be gone."""
        from fbp.text import tokenizer_from_json
        from fbp.train import InputError, Run

        if self.resume is None:
            return None
        saved = Run(self.resume).config().get("tokenizer")
        if not isinstance(saved, dict) or saved.get("kind") != "file":
            return None
        try:
            return tokenizer_from_json(saved)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.resume}: expected a tokenizer in its config: {error}"
            ) from None

    def _inputs(self) -> tuple[str, ...] | None:
        # A run that goes on has them from JSON, as a list.
        return None if self.inputs is None else tuple(self.inputs)

    def _made(self) -> Any:
        """What a function of the user's makes."""
        import inspect

        from fbp.cli._reports import made
        from fbp.train import InputError, made_of, table_task
        from fbp.verify.registry._named import load_module, load_object, split_name

        module, name = split_name(self.task)
        make = load_object(load_module(module), name)
        if not callable(make):
            raise InputError(f"{self.task}: expected a function, got {type(make).__name__}")
        needs = inspect.signature(make).parameters
        takes = "data" in needs
        wanted = [
            p.name
            for p in needs.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if unknown := [n for n in wanted if n != "data"]:
            raise InputError(
                f"{self.task}: expected a function without arguments, or of one named data, which "
                f"gets the path of --data; it needs {', '.join(unknown)}"
            )
        table = None
        if self.target is not None:
            if self.data is None:
                raise InputError("--target is of a table: expected --data FILE too")
            table = table_task(self._one_file(), self.target, self.kind, self._inputs())
        data = None if self.data is None else self._one_file()
        given = (lambda: make(data=data)) if takes else make
        return made_of(self.task, made(self.task, given), table)


def task_first(args: list[str]) -> list[str]:
    """The arguments of `fbp train`, with a task that stands after the files of --data before them:
    else it would be one of these."""
    if "--data" not in args or (args[0] != "--data" and not args[0].startswith("-")):
        return args
    start = args.index("--data") + 1
    stop = next((i for i in range(start, len(args)) if args[i].startswith("-")), len(args))
    last = args[stop - 1]
    is_task = last in (*_TEXT, *_PRETRAINED) and not os.path.exists(last)
    if stop - start < 2 or not is_task:
        return args
    return [last, *args[: stop - 1], *args[stop:]]


def _from_anywhere(path: Path) -> str:
    """A path, or a pattern, that means the same in another working directory."""
    if path.is_absolute():
        return str(path)
    here = Path.cwd()
    is_pattern = not path.exists() and glob.has_magic(str(path))
    return str((Path(glob.escape(str(here))) if is_pattern else here) / path)


def _flag(name: str) -> str:
    return name.replace("_", "-")
