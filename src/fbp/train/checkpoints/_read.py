"""Reads checkpoints, of which nothing is believed before its sums are right."""

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from fbp._errors import InputError
from fbp._layer import PyTree
from fbp.interop._files import FolderError, open_file
from fbp.interop._header import read_header
from fbp.train.checkpoints import _manifest
from fbp.train.checkpoints._named import like
from fbp.train.checkpoints._write import MANIFEST, STATE


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole.

    Attributes:
      folder: where it is.
      step: the number of steps taken.
      arrays: the state, by name.
      content: the rest of its manifest.
    """

    folder: Path
    step: int
    arrays: dict[str, np.ndarray]
    content: dict[str, Any]

    def tree(self, shapes: PyTree) -> PyTree:
        """The state, as a tree of these shapes.

        Raises:
          InputError: it is of another model or optimizer.
        """
        return like(shapes, self.arrays, str(self.folder))

    def other_versions(self) -> list[str]:
        """What is not as it was when this was written, such as 'jax 0.10.2, now 0.11.0'."""
        now, then = _manifest.versions(), self.content.get("versions", {})
        return [f"{k} {then.get(k)}, now {v}" for k, v in now.items() if then.get(k) != v]


def checkpoints_in(steps: Path) -> list[Path]:
    """The folders of checkpoints, the newest first."""
    if not steps.is_dir():
        return []
    found = [path for path in steps.iterdir() if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint and compares every byte of it with its sums.

    Raises:
      InputError: it is damaged or not whole; the message names the file.
    """
    content = _manifest.from_bytes(str(folder / MANIFEST), _read(folder / MANIFEST))
    data: dict[str, bytes] = {}
    for name, said in content["files"].items():
        found = _read(folder / name)
        if len(found) != said["bytes"]:
            raise InputError(
                f"{folder / name}: damaged: expected {said['bytes']:,} bytes, got {len(found):,}"
            )
        if hashlib.sha256(found).hexdigest() != said["sha256"]:
            raise InputError(f"{folder / name}: damaged: its SHA-256 is not that of the manifest")
        data[name] = found
    if content["step"] != int(folder.name):
        raise InputError(f"{folder}: expected the checkpoint of step {content['step']}: renamed?")
    return Checkpoint(folder, content["step"], _arrays(folder / STATE, data[STATE]), content)


def newest_whole(steps: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, None if there is none, and a line for each damaged one
    that is newer."""
    damaged: list[str] = []
    for folder in checkpoints_in(steps):
        try:
            return read_checkpoint(folder), damaged
        except InputError as error:
            damaged.append(str(error))
    return None, damaged


def _read(path: Path) -> bytes:
    try:
        file, _ = open_file(path)
        with file:
            return file.read()
    except FolderError as error:
        raise InputError(f"{error}: damaged") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _arrays(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        entries, begin = read_header(str(path), io.BytesIO(data), len(data))
    except FolderError as error:
        raise InputError(f"{error}: damaged") from None
    return {
        name: np.ndarray(entry.shape, entry.dtype, data, begin + entry.start)
        for name, entry in entries.items()
    }
