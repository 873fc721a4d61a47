"""Runs the tests on every mutant, those that are likely to kill it first."""

import concurrent.futures
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from fbp.verify.mutate._beside import edits_beside
from fbp.verify.mutate._find import places_of
from fbp.verify.mutate._operators import Mutant, Place, mutants_in, shown
from fbp.verify.mutate._pool import Pool
from fbp.verify.mutate._score import Result, Score
from fbp.verify.mutate._source import MutateError
from fbp.verify.mutate._touch import name_of, touch_edits

# How many tests are run before all are collected.
_QUICK = 12


def score(
    target: Any,
    tests: str | Path | Sequence[str | Path] = (),
    *,
    helpers: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    on_result: Callable[[Result, int, int], None] | None = None,
) -> Score:
    """Plants bugs in the backward of a target, one at a time, and runs tests on each.

    No file is changed: tests run in other processes, which import the mutant instead of the file.

    Args:
      target: a custom_vjp or custom_jvp function, a class with a `backward` or a `value_and_grad`,
        a function that is a backward, a module; or a name, "pkg.module:name", "file.py:name".
      tests: arguments of pytest: paths, and flags such as "-m", "not slow". By default all tests
        that pytest collects.
      helpers: whether to mutate helper functions too that the forward shares with the backward.
      limit: at most this many mutants, spread evenly over all.
      workers: how many processes; by default one for each core.
      on_result: called with each result, the number of results so far, and the number of mutants.

    Raises:
      MutateError: there is no backward or no test, or the tests fail without a mutant.
    """
    places = places_of(target, helpers)
    mutants = mutants_in(places)
    if not mutants:
        names = ", ".join(place.name for place in places)
        raise MutateError(f"there is nothing to mutate in {names}")
    if limit is not None and limit < len(mutants):
        mutants = [mutants[i * len(mutants) // limit] for i in range(limit)]
    given = [tests] if isinstance(tests, str | Path) else list(tests)
    args = [str(test) for test in given]
    with Trial(places, args, workers or os.cpu_count() or 1) as trial:
        trial.check_baseline()
        return trial.score(mutants, on_result)


class Trial:
    """The tests, with a record of which run a function and which kill its mutants."""

    def __init__(self, places: list[Place], args: list[str], workers: int) -> None:
        self.places, self.args, self.workers = places, args, workers
        self.options = _options(args)
        self.pool = Pool(workers, fork=sys.platform.startswith("linux"))
        self.limit: float | None = None
        self.root = ""
        # Tests that run a function, the quickest first; None if `check_baseline` was not called.
        self.touching: dict[str, list[str]] | None = None
        self.killers: dict[str, Counter[str]] = {}
        # Returns paths of the tests about a mutant, and words in their names. Called if `touching`
        # is None, or if only these tests are to run.
        self.near: Callable[[Mutant], tuple[list[str], list[str]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.close()

    def check_baseline(self) -> None:
        """Runs the tests without a mutant, and records which functions each test runs."""
        started = time.monotonic()
        job = {"edits": touch_edits(self.places), "args": self.args, "every": True}
        answer = self.pool.ask(job)
        if answer["status"] not in (0, 5):
            # Tests that set what jax reads on import need a new process for each job.
            self.pool.use_fork(False)
            answer = self.pool.ask(job)
        self.limit = 5 * (time.monotonic() - started) + 30
        self._require_good(answer)
        self.pool.share()
        seconds = {test: took for test, (took, _) in answer["tests"].items()}
        self.touching = {name: [] for name in answer["touched"]}
        for test in sorted(seconds, key=seconds.__getitem__):
            for name in answer["tests"][test][1]:
                self.touching[name].append(test)
        self.root = answer["root"]

    def _require_good(self, answer: dict[str, Any]) -> None:
        if answer["status"] == 5:
            raise MutateError(f"no tests were collected from {' '.join(self.args) or 'here'}")
        if answer["failed"]:
            test, _, said = answer["failed"]
            raise MutateError(f"the tests fail without any mutant: {test}: {said}")
        if answer["status"]:
            command = " ".join(["pytest", *self.args])
            raise MutateError(f"{command} ends with status {answer['status']} without any mutant")
        for file in {place.file for place in self.places} - set(answer["loaded"]):
            raise MutateError(f"the tests never import {shown(file)}")

    def score(
        self,
        mutants: list[Mutant],
        on_result: Callable[[Result, int, int], None] | None = None,
        near_only: bool = False,
    ) -> Score:
        """Runs the tests on each mutant."""
        started = time.monotonic()
        results: dict[Mutant, Result] = {}
        with concurrent.futures.ThreadPoolExecutor(self.workers) as threads:
            running = [threads.submit(self.judge, mutant, near_only) for mutant in mutants]
            try:
                for done in concurrent.futures.as_completed(running):
                    result = done.result()
                    results[result.mutant] = result
                    if on_result:
                        on_result(result, len(results), len(mutants))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.pool.close()
                raise
        self._require_killers_pass(list(results.values()))
        return Score(tuple(results[m] for m in mutants), time.monotonic() - started)

    def judge(self, mutant: Mutant, near_only: bool = False) -> Result:
        """The outcome of a mutant: runs the tests that are likely to kill it, then all tests."""
        name = name_of(mutant.file, mutant.function)
        job = {"edits": {mutant.file: [[mutant.start, mutant.end, mutant.text]]}}
        if self.touching is not None and name not in self.touching:
            return Result(mutant, "survived", said="no test runs it")
        killers = self.killers.setdefault(mutant.file, Counter())
        known = [test for test, _ in killers.most_common(_QUICK // 2)]
        tests = list(dict.fromkeys([*known, *(self.touching or {}).get(name, ())]))
        ask_near = self.near and (near_only or self.touching is None)
        paths, words = self.near(mutant) if self.near and ask_near else ([], [])
        quick = tests if near_only and not ask_near else tests[:_QUICK]
        paths += [os.path.join(self.root, test.partition("::")[0]) for test in quick]
        result = Result(mutant, "survived")
        if quick or words:
            some = {"args": [*self.options, *dict.fromkeys(paths)], "first": quick, "words": words}
            result = self._run(mutant, {**job, **some, "only": True})
        if result.status != "survived" or near_only:
            return result
        every = {"args": self.args, "first": tests, "words": words}
        result = self._run(mutant, {**job, **every})
        return self._compared(mutant, every) if result.status == "survived" else result

    def _compared(self, mutant: Mutant, job: dict[str, Any]) -> Result:
        """A mutant that survived: equivalent, if what the tests reach of it is the function's."""
        edits = edits_beside(mutant, self.places)
        answer = self.pool.ask({**job, "edits": {mutant.file: edits}}, self.limit) if edits else {}
        if answer.get("status") == 0 and answer["same"]:
            return Result(mutant, "equivalent", said=answer["same"])
        return Result(mutant, "survived")

    def _run(self, mutant: Mutant, job: dict[str, Any]) -> Result:
        answer = self.pool.ask(job, self.limit)
        if answer.get("timeout"):
            return Result(mutant, "time-out")
        if answer["status"] in (0, 5):
            return Result(mutant, "survived")
        if not answer["failed"]:
            return Result(mutant, "error")
        test, kind, said = answer["failed"]
        module, _, kind = kind.rpartition(".")
        expected = kind == "AssertionError" or not module.startswith(("builtins", "jax"))
        if "::" in test:
            self.killers[mutant.file][test] += 1
        return Result(mutant, "killed" if expected else "error", test, said)

    def _require_killers_pass(self, results: list[Result]) -> None:
        """Runs the tests that killed a mutant again, without a mutant and in another order."""
        killers = list(dict.fromkeys(r.by for r in results if "::" in r.by))
        if not killers:
            return
        answer = self.pool.ask({"args": self.args, "first": killers, "only": True})
        if answer["failed"]:
            test, _, said = answer["failed"]
            raise MutateError(f"{test} fails without any mutant, after other tests: {said}")


def _options(args: list[str]) -> list[str]:
    """The flags of pytest among the arguments, with their values; paths are left out."""
    options: list[str] = []
    value = False
    for arg in args:
        if value or arg.startswith("-"):
            options.append(arg)
            value = not value and arg in ("-m", "-k", "-p", "-W", "-o", "-c")
        elif not Path(arg.partition("::")[0]).exists():
            raise MutateError(f"{arg}: there is no such file or folder of tests")
    return options
