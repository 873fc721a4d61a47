"""Processes that run tests: started once, asked many times."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_PROGRAM = str(Path(__file__).with_name("_inject.py"))


class Worker:
    """One process beside this one. `ask` runs pytest in it, or in a fork of it.

    Args:
      scratch: a folder for what Python, hypothesis and jax keep.
      fork: whether each job gets a fork of one process that has imported jax, and what jax has
        compiled for others; else a new process.
    """

    def __init__(self, scratch: Path, fork: bool) -> None:
        self.scratch, self.fork = scratch, fork
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        """What became of a job; {"timeout": True} where it took longer than `limit` seconds."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self._kill(process)

        timer = threading.Timer(limit, stop) if limit else None
        if timer:
            timer.start()
        try:
            process.stdin.write(json.dumps({**_EMPTY, **job}).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = b""
        finally:
            if timer:
                timer.cancel()
            if not self.fork:
                self.close()
        if timed_out.is_set():
            self.close()
            # It may have been stopped in the middle of a file.
            shutil.rmtree(self.scratch, ignore_errors=True)
            return {"timeout": True}
        # A process that ended without a word was killed, or crashed.
        return json.loads(line) if line else {"status": 3, "failed": None, "tests": {}}

    def _start(self) -> None:
        environment = {
            # jax would take most of a GPU's memory for the first of several processes.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **(self._compiled() if self.fork else {}),
            **os.environ,
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.scratch / "hypothesis"),
        }
        self._process = subprocess.Popen(
            [sys.executable, _PROGRAM, "fork" if self.fork else "once", str(self.scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def _compiled(self) -> dict[str, str]:
        """Most of what a mutant's tests compile is what they compile without it."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.scratch / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def close(self) -> None:
        """Ends the process and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        self._kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


_EMPTY: dict[str, Any] = {
    **{"edits": {}, "args": [], "first": [], "words": []},
    **{"only": False, "every": False},
}


class Pool:
    """Some workers, each with a scratch folder of its own."""

    def __init__(self, size: int, fork: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fbp-mutate-"))
        self._all = [Worker(self._folder / str(i), fork) for i in range(size)]
        self._free = list(self._all)
        self._closed = False

    def ask(self, job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        """Asks a worker that is free; there is one for each thread."""
        if self._closed:
            return {"timeout": True}
        worker = self._free.pop()
        try:
            return worker.ask(job, limit)
        finally:
            self._free.append(worker)

    def share(self) -> None:
        """Gives all workers what the last one that was asked has kept."""
        first = self._free[-1]
        for worker in self._all:
            if worker is not first and first.scratch.exists():
                shutil.copytree(first.scratch, worker.scratch, dirs_exist_ok=True)

    def use_fork(self, fork: bool) -> None:
        """Whether workers fork, from their next job on."""
        for worker in self._all:
            worker.close()
            worker.fork = fork

    def close(self) -> None:
        """Ends all workers; what is asked from now on has no answer."""
        self._closed = True
        for worker in self._all:
            worker.close()
        shutil.rmtree(self._folder, ignore_errors=True)
