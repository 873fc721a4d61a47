"""Writes one checkpoint: all of it, or nothing."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fbp.interop._write import pieces_of
from fbp.train.checkpoints import _manifest
from fbp.train.checkpoints._disk import (
    PARTIAL,
    REMOVED,
    SaveError,
    remove_quietly,
    require_space,
    sync_folder,
    write_durably,
)
from fbp.train.checkpoints._logs import noted

STATE, MANIFEST = "state.safetensors", "manifest.json"
# What names, headers and the folder itself take beside the arrays.
BESIDE = 2**18


def folder_of(steps: Path, step: int) -> Path:
    """The folder of the checkpoint after a number of steps."""
    return steps / f"{step:08}"


def write_checkpoint(
    steps: Path,
    step: int,
    arrays: dict[str, np.ndarray],
    content: dict[str, Any],
    logs: dict[Path, int] | None = None,
) -> Path:
    """Writes the checkpoint of a step, and waits until the disk has it.

    Its files are written into a folder of another name, which is renamed when they are whole: a
    crash at any moment leaves no checkpoint that is not.

    Args:
      steps: the folder of all checkpoints; it is made.
      step: the number of steps taken.
      arrays: the state, by name.
      content: what the manifest says beside.
      logs: files that grow, with their length at this step.

    Raises:
      SaveError: it cannot be written; nothing of it is left, and all others are whole.
    """
    target = folder_of(steps, step)
    partial = steps / f"{PARTIAL}{target.name}"
    try:
        steps.mkdir(parents=True, exist_ok=True)
        require_space(steps, sum(a.nbytes for a in arrays.values()) + BESIDE)
        remove_quietly(partial)
        os.mkdir(partial)
        files = {STATE: write_durably(partial / STATE, pieces_of(arrays))}
        manifest = _manifest.to_bytes(
            {
                "step": step,
                "versions": _manifest.versions(),
                "files": files,
                "logs": noted(logs or {}),
                **content,
            }
        )
        write_durably(partial / MANIFEST, [manifest])
        sync_folder(partial)
        # A folder cannot be renamed onto one that is there: one that an earlier run of the same
        # steps left, such as a damaged one.
        aside = steps / f"{REMOVED}{target.name}"
        if target.exists():
            remove_quietly(aside)
            os.replace(target, aside)
        os.replace(partial, target)
        sync_folder(steps)
        remove_quietly(aside)
    except OSError as error:
        remove_quietly(partial)
        raise SaveError(f"{target}: cannot be written: {error.strerror or error}") from None
    except BaseException:
        remove_quietly(partial)
        raise
    return target


def remove_checkpoint(folder: Path) -> None:
    """Removes a checkpoint. It loses its name first: what is left after a crash is no checkpoint.

    Raises:
      SaveError: it cannot be renamed.
    """
    aside = folder.with_name(f"{REMOVED}{folder.name}")
    try:
        remove_quietly(aside)
        os.replace(folder, aside)
    except OSError as error:
        raise SaveError(f"{folder}: cannot be removed: {error.strerror}") from None
    remove_quietly(aside)


def tidy(steps: Path) -> None:
    """Removes what a crash has left between the checkpoints."""
    for prefix in (PARTIAL, REMOVED):
        for path in steps.glob(f"{prefix}*"):
            remove_quietly(path)
