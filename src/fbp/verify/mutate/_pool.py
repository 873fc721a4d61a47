"""Worker processes that run tests, started once and used for many jobs."""

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
    """A worker process. `ask` runs pytest in it, or in a fork of it.

    Args:
      scratch: a folder for the caches of Python, hypothesis and jax.
      fork: whether each job runs in a fork of one process that has imported jax, and jobs share
        jax's compilation cache; else each job runs in a new process.
    """

    def __init__(self, scratch: Path, fork: bool) -> None:
        self.scratch, self.fork = scratch, fork
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        """The answer to a job; {"timeout": True} if it took longer than `limit` seconds."""
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
            # The process may have been killed while it wrote a file of a cache.
            shutil.rmtree(self.scratch, ignore_errors=True)
            return {"timeout": True}
        # No answer: the process was killed, or crashed.
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
        """Settings of jax's compilation cache: most programs are the same for every mutant."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.scratch / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def close(self) -> None:
        """Ends the process and all processes that it has started."""
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
    """A number of workers, each with a scratch folder of its own."""

    def __init__(self, size: int, fork: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fbp-mutate-"))
        self._all = [Worker(self._folder / str(i), fork) for i in range(size)]
        self._free = list(self._all)
        self._closed = False

    def ask(self, job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        """Asks a free worker; there must be a worker for each thread that asks."""
        if self._closed:
            return {"timeout": True}
        worker = self._free.pop()
        try:
            return worker.ask(job, limit)
        finally:
            self._free.append(worker)

    def share(self) -> None:
        """Copies the caches of the worker that was asked last to all others."""
        first = self._free[-1]
        for worker in self._all:
            if worker is not first and first.scratch.exists():
                shutil.copytree(first.scratch, worker.scratch, dirs_exist_ok=True)

    def use_fork(self, fork: bool) -> None:
        """Sets whether workers fork, from their next job on."""
        for worker in self._all:
            worker.close()
            worker.fork = fork

    def close(self) -> None:
        """Ends all workers; `ask` returns {"timeout": True} from then on."""
        self._closed = True
        for worker in self._all:
            worker.close()
        shutil.rmtree(self._folder, ignore_errors=True)
