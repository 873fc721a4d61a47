"""Runs pytest with the source of some files changed in memory; no file is written.

This is a separate program, which imports nothing of fbp, because fbp may be mutated. It reads jobs
from standard input and writes an answer to each to standard output, one line of JSON each. The
modules that most tests import are imported once; each job runs in a fork of that process.

    job     {"edits": {file: [[start, end, text], ...]}, "args": [...], "first": [node id, ...],
             "words": [...], "only": bool, "every": bool}
    answer  {"status": pytest's exit status, "failed": [node id, exception, message], "tests": {node
             id: [seconds, [function, ...]]}, "touched": [function, ...], "root": folder,
             "loaded": [file, ...], "same": how the mutant is known to be its original}
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import sys
from types import CodeType
from typing import Any

# Imported before the first fork, if installed.
_COMMON = ("numpy", "jax", "jax.numpy", "hypothesis", "mpmath", "optax", "chex", "pytest")


class Sources:
    """Replaces the source of files, however they are imported."""

    def __init__(self, edits: dict[str, list[Any]]) -> None:
        self.sources = {}
        for file, changes in edits.items():
            with open(file, "rb") as opened:
                source = opened.read()
            for start, end, text in sorted(changes, reverse=True):
                source = source[:start] + text.encode() + source[end:]
            self.sources[file] = source
        self.names = {os.path.basename(file).removesuffix(".py") for file in edits}
        self.names |= {os.path.basename(os.path.dirname(file)) for file in edits}
        self.loaded: set[str] = set()

    def install(self) -> None:
        """Puts this importer before all others."""
        before = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader: Any, name: str) -> CodeType | None:
            file = os.path.realpath(loader.path)
            if file not in self.sources:
                return before(loader, name)
            self.loaded.add(file)
            return compile(self.sources[file], loader.path, "exec", dont_inherit=True)

        # Files that are loaded by their path do not go through `sys.meta_path`.
        loaders: Any = importlib.machinery.SourceFileLoader
        loaders.get_code = get_code
        sys.meta_path.insert(0, self)

    def to_front(self) -> None:
        """Puts this importer before those of pytest, because a test file may define a rule."""
        sys.meta_path.remove(self)
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.rpartition(".")[2] not in self.names:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                break
        else:
            return None
        if not spec.origin or os.path.realpath(spec.origin) not in self.sources:
            return None
        loader = importlib.machinery.SourceFileLoader(name, spec.origin)
        return importlib.util.spec_from_file_location(
            name,
            spec.origin,
            loader=loader,
            submodule_search_locations=spec.submodule_search_locations,
        )


class Plugin:
    """A pytest plugin that orders the tests and records their results."""

    def __init__(self, job: dict[str, Any], sources: Sources) -> None:
        self.job, self.sources = job, sources
        self.failed: list[str] | None = None
        self.exceptions: dict[str, list[str]] = {}
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self.touched: set[str] = set()
        self.ever: set[str] = set()
        self.root = ""

    def touch(self, name: str) -> None:
        """Records that a function runs; called by the code that `touch_edits` inserts."""
        self.touched.add(name)
        self.ever.add(name)

    def pytest_sessionstart(self, session: Any) -> None:
        self.root = str(session.config.rootpath)
        self.sources.to_front()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        first = {test: i for i, test in enumerate(self.job["first"])}
        words = self.job["words"]

        def rank(item: Any) -> tuple[int, int]:
            name = item.nodeid.lower().replace("_", "")
            about = sum(word.replace("_", "") in name for word in words)
            return first.get(item.nodeid, len(first)), -about

        if self.job["only"]:
            items[:] = [item for item in items if item.nodeid in first or rank(item)[1] < 0]
        items.sort(key=rank)

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.touched = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        seconds, _ = self.tests.get(report.nodeid, (0.0, []))
        self.tests[report.nodeid] = (seconds + report.duration, sorted(self.touched))
        if report.failed:
            self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._note(report)

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        kind = call.excinfo.type
        said = " ".join(call.excinfo.exconly().split())
        self.exceptions[report.nodeid] = [f"{kind.__module__}.{kind.__qualname__}", said[:300]]

    def _note(self, report: Any) -> None:
        if self.failed is None:
            self.failed = [report.nodeid, *self.exceptions.get(report.nodeid, ["", ""])]

    def answer(self, status: int) -> dict[str, Any]:
        if self.failed and not self.failed[1]:
            self.failed[1:] = self.exceptions.get(self.failed[0], ["", ""])
        return {
            "status": status,
            "failed": self.failed,
            "tests": self.tests if self.job["every"] else {},
            "root": self.root,
            "touched": sorted(self.ever),
            "loaded": sorted(self.sources.loaded),
        }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Runs pytest in this process."""
    import builtins

    import pytest

    sources = Sources(job["edits"])
    sources.install()
    plugin = Plugin(job, sources)
    builtins.__fbp_touch__ = plugin.touch  # type: ignore[attr-defined]
    comparison = _comparison()
    builtins.__fbp_same__ = comparison.of  # type: ignore[attr-defined]
    args = ["-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    # Tests run in this process, which has the mutant; the user's coverage report is not replaced.
    for module, flag in (("xdist", "-n0"), ("pytest_cov", "--no-cov")):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
            args.append(flag)
    answer = plugin.answer(int(pytest.main([*args, *job["args"]], plugins=[plugin])))
    return {**answer, "same": comparison.says}


def _comparison() -> Any:
    """A comparison of a mutant with its original, by the file beside this one."""
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_same.py")
    spec: Any = importlib.util.spec_from_file_location("_fbp_same", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Comparison()


def _fork(job: dict[str, Any], asker: int) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(run(job)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading, asker], [], [])
    if asker in ready:
        # The process that asked has ended: end the whole group, which this process leads.
        os.killpg(0, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else {"status": 3, "failed": None, "tests": {}, "loaded": []}


def serve(fork: bool, scratch: str) -> None:
    """Answers jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    jobs = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    # The current folder, as with `python -m pytest`, instead of the folder of this file.
    sys.path[0] = os.getcwd()
    if fork:
        for name in _COMMON:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        # Write no bytecode beside the user's files. This is set only now, so that the imports above
        # use the bytecode they have.
        sys.pycache_prefix = os.path.join(scratch, "pycache")
    else:
        sys.dont_write_bytecode = True
    for line in jobs:
        job = json.loads(line)
        answer = _fork(job, jobs.fileno()) if fork else run(job)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1] == "fork", sys.argv[2])
