"""A run's folder: the files that training writes, and how they are read.

runs/<name>/config.json          the settings, the network and the encoding of the data
            metrics.jsonl        one JSON object per line: step, loss, val_loss and others
            weights.safetensors  the model's parameters by path, such as `dense_1.w`: the best
            last.safetensors     those after the last step, where they are not the best
            scores.json          of a table: how good the predictions of held-out rows are
            picture.png          plots of the metrics and of the learned function
            samples.txt          for a language model: texts generated during training
            model/               for a fine-tuned model, instead of weights.safetensors: the model
            manifest.json        the SHA-256 of the files of a run that has ended
            steps/               checkpoints, of which the newest is what a run goes on from
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fbp._layer import Params
from fbp._tree import named_leaves
from fbp.train.checkpoints import checkpoints_in
from fbp.train.checkpoints._disk import replace_durably, sync_folder
from fbp.train.checkpoints._logs import append
from fbp.train.checkpoints._manifest import from_bytes, of_files, to_bytes
from fbp.train.checkpoints._write import tidy
from fbp.train.tables._table import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
LAST = "last.safetensors"
SCORES = "scores.json"
PICTURE = "picture.png"
SAMPLES = "samples.txt"
STEPS = "steps"
MANIFEST = "manifest.json"
MODEL = "model"
# What does not change when a run has ended.
SEALED = (CONFIG, METRICS, SAMPLES, WEIGHTS, LAST, SCORES, PICTURE)


class TakenError(InputError):
    """There is a folder of this name already."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one run."""

    folder: Path

    @classmethod
    def create(cls, runs: Path, name: str | None, task: str) -> "Run":
        """Makes a new folder, by default named after the task, with a number if that is taken.

        Raises:
          TakenError: the name is taken.
          InputError: it is not a plain folder name, or the folder cannot be made.
        """
        if name is not None and (name in ("", ".", "..") or Path(name).name != name):
            raise InputError(f"expected --name to be a plain folder name, got {name!r}")
        try:
            runs.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                plain = name or (task if number == 1 else f"{task}-{number}")
                try:
                    (runs / plain).mkdir()
                    sync_folder(runs)
                    return cls(runs / plain)
                except FileExistsError:
                    if cls(runs / plain)._is_abandoned():
                        return cls(runs / plain)
                    if name is not None:
                        raise TakenError(f"{runs / plain} is there already and is kept") from None
                    number += 1
        except OSError as error:
            raise InputError(f"cannot make a folder in {runs}: {error.strerror}") from None

    @property
    def logs(self) -> list[Path]:
        """The files that grow with the run."""
        return [self.folder / METRICS, self.folder / SAMPLES]

    def clear_logs(self) -> None:
        """Removes them: the run begins at its first step."""
        for path in self.logs:
            path.unlink(missing_ok=True)

    def seal(self) -> None:
        """Notes the SHA-256 of the files of a run that has ended; `load` compares them."""
        files = of_files(self.folder, self._sealed())
        self._write(MANIFEST, to_bytes({"files": files}))

    def _sealed(self) -> list[str]:
        tuned = sorted(path for path in (self.folder / MODEL).rglob("*") if path.is_file())
        return [*SEALED, *(path.relative_to(self.folder).as_posix() for path in tuned)]

    @property
    def is_sealed(self) -> bool:
        """Whether the run has ended, by itself or stopped, and has written all its files."""
        return (self.folder / MANIFEST).exists()

    @property
    def is_begun(self) -> bool:
        """Whether its settings have been written."""
        return (self.folder / CONFIG).exists()

    def unseal(self) -> None:
        """Takes the note away: the run goes on."""
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def require_whole(self) -> None:
        """Compares the files of a run that has ended with what was noted.

        Raises:
          InputError: one is not as it was.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            return
        said = from_bytes(str(path), path.read_bytes())["files"]
        for name, entry in of_files(self.folder, self._sealed()).items():
            if name not in said or said.pop(name) != entry:
                raise InputError(
                    f"{self.folder / name}: damaged: its SHA-256 is not that of {MANIFEST}"
                )
        if said:
            raise InputError(f"{self.folder / min(said)}: expected a file, got none")

    @property
    def steps(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / STEPS

    def discard(self) -> None:
        """Removes the folder of a run that has logged nothing; any other is kept."""
        if (self.folder / METRICS).exists() or checkpoints_in(self.steps):
            return
        for path in (self.folder / CONFIG, self.folder / f"{CONFIG}.partial"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if self.steps.is_dir():
                tidy(self.steps)
                self.steps.rmdir()
            self.folder.rmdir()

    def _is_abandoned(self) -> bool:
        """Whether the folder is that of a run which was killed before it wrote anything."""
        try:
            with self.locked():
                names = {path.name for path in self.folder.iterdir()}
        except (InputError, OSError):
            return False
        return names <= {f"{CONFIG}.partial"}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While one process trains in the folder, no other does.

        Raises:
          InputError: another does.
        """
        try:
            import fcntl
        except ModuleNotFoundError:  # not on Windows
            yield
            return
        opened = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            raise InputError(f"{self.folder}: another process is training in it") from None
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            os.close(opened)

    def save_config(self, config: dict[str, Any]) -> None:
        text = json.dumps(config, indent=2)
        self._write(CONFIG, (text + "\n").encode())

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        line = json.dumps({"step": step, **metrics}, allow_nan=False)
        append(self.folder / METRICS, f"{line}\n")

    def save_weights(self, best: Params, last: Params | None) -> None:
        """Saves the best weights, and the last where those are others. What an earlier end of this
        run has left of its own weights, their scores among it, does not stay beside them."""
        self._save(WEIGHTS, best)
        (self.folder / SCORES).unlink(missing_ok=True)
        if last is None:
            (self.folder / LAST).unlink(missing_ok=True)
        else:
            self._save(LAST, last)

    def _save(self, name: str, params: Params) -> None:
        from safetensors.numpy import save

        leaves = {path: np.asarray(a) for path, a in named_leaves(params).items()}
        self._write(name, save(leaves))

    def save_scores(self, scores: dict[str, Any]) -> None:
        self._write(SCORES, (json.dumps(scores, indent=2, allow_nan=False) + "\n").encode())

    def save_picture(self, png: bytes) -> None:
        self._write(PICTURE, png)

    def add_sample(self, step: int, text: str) -> None:
        """Adds a text that a language model generated to samples.txt."""
        append(self.folder / SAMPLES, f"--- step {step}\n{text}\n")

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        path = self.folder / METRICS
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None

    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
          InputError: the folder is not a run, or the file is damaged.
        """
        path = self.folder / CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.folder}: expected a run's folder, with {CONFIG}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise InputError(f"{path}: expected JSON, got something else") from None
        if not isinstance(config, dict):
            raise InputError(f"{path}: expected a JSON object, got {type(config).__name__}")
        return config

    def _write(self, name: str, content: bytes) -> None:
        """Writes a file atomically: a reader never sees half of it."""
        replace_durably(self.folder / name, content)


@contextlib.contextmanager
def new_run(
    runs: Path, name: str | None, task: str, if_taken: str = "choose another --name"
) -> Iterator[Run]:
    """A new run's folder; if the run fails before it logs metrics, the folder is removed. Where the
    name is taken, the error says `if_taken`."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                run = Run.create(runs, name, task)
            except TakenError as error:
                raise InputError(f"{error}: {if_taken}") from None
            try:
                held.enter_context(run.locked())
                break
            except InputError:  # of the same moment: it took the folder for an abandoned one
                if name is not None:
                    raise
        try:
            yield run
        except BaseException:
            run.discard()
            raise
