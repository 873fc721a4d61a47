"""Files that are there after a crash, and errors of the disk in one line."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fbp._errors import InputError

PARTIAL, REMOVED = ".partial-", ".removed-"


class SaveError(InputError):
    """A file cannot be written; the message is one line, to be shown as it is."""


def write_durably(path: Path, pieces: Iterable[Any]) -> dict[str, Any]:
    """Writes a new file and waits until the disk has it; returns its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        for piece in pieces:
            left = memoryview(piece)
            digest.update(left)
            size += len(left)
            while len(left):
                left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)
    return {"bytes": size, "sha256": digest.hexdigest()}


def replace_durably(path: Path, content: bytes) -> None:
    """Writes a file or replaces it: a reader sees the old one or the new one, never half of it.

    Raises:
      SaveError: it cannot be written; the old one, if there was any, is whole.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        write_durably(partial, [content])
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SaveError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        remove_quietly(partial)


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of another: a crash leaves one of the two.

    Raises:
      SaveError: it cannot be written; the old one is whole.
    """
    partial = target.with_name(f"{PARTIAL}{target.name}")
    aside = target.with_name(f"{REMOVED}{target.name}")
    try:
        remove_quietly(partial)
        partial.mkdir()
        yield partial
        remove_quietly(aside)
        if target.exists():
            os.replace(target, aside)
        os.replace(partial, target)
        sync_folder(target.parent)
        remove_quietly(aside)
    except OSError as error:
        raise SaveError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        remove_quietly(partial)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    if os.name == "nt":  # which cannot open a folder
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_file(path: Path) -> None:
    """Waits until the disk has what was written to a file, if it is there."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_quietly(path: Path) -> None:
    """Removes a file or a folder, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def require_space(folder: Path, needed: int) -> None:
    """Raises SaveError if the disk of a folder has less than these bytes free."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise SaveError(f"{folder}: cannot be written: {error.strerror}") from None
    if free < needed:
        raise SaveError(
            f"{folder}: expected {needed:,} bytes free on the disk for a checkpoint, got {free:,}"
        )
