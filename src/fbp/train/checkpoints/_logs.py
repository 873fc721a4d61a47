"""Logs, which grow: how long each was when a checkpoint was made, and the sum of that part."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fbp._errors import InputError
from fbp.train.checkpoints._disk import SaveError, replace_durably, sync_file


def lengths(paths: Iterable[Path]) -> dict[Path, int]:
    """The present length of each log that is there."""
    return {path: path.stat().st_size for path in paths if path.exists()}


def noted(logs: dict[Path, int]) -> dict[str, dict[str, Any]]:
    """Waits until the disk has the logs; returns what a manifest says of them."""
    said = {}
    for path, length in logs.items():
        sync_file(path)
        with open(path, "rb") as file:
            said[path.name] = {"bytes": length, "sha256": _sum(file.read(length))}
    return said


def cut_back(folder: Path, said: dict[str, dict[str, Any]]) -> list[str]:
    """Cuts the logs in a folder to what they were; returns a line for each that is not there.

    Raises:
      InputError: what a log was then is not what it holds now; none is changed.
      SaveError: a log cannot be written.
    """
    missing, parts = [], {}
    for name, entry in said.items():
        path = folder / name
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            missing.append(f"{path}: expected a file, got none: a new one is begun")
            continue
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        part = whole[: entry["bytes"]]
        if len(part) != entry["bytes"] or _sum(part) != entry["sha256"]:
            raise InputError(
                f"{path}: damaged: its SHA-256 is not that of the checkpoint; to go on without it, "
                "move it away"
            )
        if len(whole) > len(part):
            parts[path] = part
    for path, part in parts.items():
        replace_durably(path, part)
    return missing


def append(path: Path, text: str) -> None:
    """Adds to a log, all of it or nothing.

    Raises:
      SaveError: it cannot be written.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            before, left = file.tell(), memoryview(text.encode(errors="replace"))
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                os.truncate(path, before)
                raise
    except OSError as error:
        raise SaveError(f"{path}: cannot be written: {error.strerror}") from None


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
