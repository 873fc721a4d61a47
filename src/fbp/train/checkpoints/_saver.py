"""Writes checkpoints beside the training, in a thread, and keeps the newest."""

import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fbp._layer import PyTree
from fbp._tree import nbytes
from fbp.train.checkpoints._disk import SaveError, require_space, sync_folder
from fbp.train.checkpoints._logs import lengths
from fbp.train.checkpoints._named import named
from fbp.train.checkpoints._read import checkpoints_in
from fbp.train.checkpoints._write import (
    BESIDE,
    folder_of,
    remove_checkpoint,
    tidy,
    write_checkpoint,
)

# Saving may take this part of the time of a run.
MOST_OF_TIME = 0.02


class Saver:
    """Saves the state of a run again and again.

    A save copies the state to the host; a thread writes the copy while the training goes on. The
    newest checkpoints are kept, and the one at the step of the best evaluation if there is one.

    Args:
      steps: the folder of the checkpoints.
      every: seconds between saves, and at least 50 times what the last save took; with infinity
        there is one at the end alone.
      keep: how many of the newest are kept, 1 or more.
      content: what each manifest says of the run, such as its configuration.
      logs: files that grow while the run goes on; a checkpoint notes how far they were.
    """

    def __init__(
        self,
        steps: Path,
        *,
        every: float = 60.0,
        keep: int = 2,
        content: dict[str, Any] | None = None,
        logs: Iterable[Path] = (),
    ):
        self.steps, self.every, self.keep = steps, every, max(1, keep)
        self._content, self._logs = content or {}, list(logs)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._last = -math.inf  # the first save is due at once
        self._seconds = 0.0
        self._saved = -1
        tidy(steps)

    def require_space(self, state: PyTree) -> None:
        """Raises SaveError unless there is room for the checkpoints that are kept, each a state and
        its best weights, and for one more, until it is whole."""
        self.steps.mkdir(parents=True, exist_ok=True)
        sync_folder(self.steps.parent)
        size = nbytes((state, getattr(state, "params", ()))) + BESIDE
        require_space(self.steps, (self.keep + 1) * size)

    def is_due(self) -> bool:
        """Whether it is time for a save, and the one before it is done.

        Raises:
          SaveError: the one before it has failed.
        """
        if self.every == math.inf or (self._thread is not None and self._thread.is_alive()):
            return False
        self.finish()
        wait = max(self.every, self._seconds / MOST_OF_TIME)
        return time.monotonic() - self._last >= wait

    def save(self, step: int, tree: PyTree, content: dict[str, Any], best_step: int) -> None:
        """Begins to save a state; `finish` waits for it.

        Raises:
          SaveError: the save before it has failed.
        """
        self.finish()
        if step == self._saved:
            return
        self._last = time.monotonic()
        content = {**self._content, **content}
        args = step, named(tree), content, best_step, lengths(self._logs)
        # As a daemon it does not hold up a process that must end at once: what it leaves half
        # written is no checkpoint.
        self._thread = threading.Thread(
            target=self._write, args=args, name=f"save {step}", daemon=True
        )
        self._thread.start()

    def finish(self) -> None:
        """Waits until what was begun is on the disk.

        Raises:
          SaveError: it cannot be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(
        self,
        step: int,
        arrays: dict[str, np.ndarray],
        content: dict[str, Any],
        best_step: int,
        logs: dict[Path, int],
    ) -> None:
        began = time.monotonic()
        try:
            write_checkpoint(self.steps, step, arrays, content, logs)
            self._saved = step
            # One of a later step, of a run that was taken up from before it, is none of this run.
            there = checkpoints_in(self.steps)
            kept = [path for path in there if int(path.name) <= step][: self.keep]
            for path in there:
                if path not in (*kept, folder_of(self.steps, best_step)):
                    remove_checkpoint(path)
        except Exception as error:  # raised where the training asks
            where = [path for path in checkpoints_in(self.steps) if int(path.name) < step]
            whole = f"; {where[0]} is whole" if where else ""
            self._error = SaveError(f"{error}{whole}")
        self._seconds = time.monotonic() - began
