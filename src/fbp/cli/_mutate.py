"""`fbp mutate`."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Mutate:
    """Plant bugs in a backward rule, one at a time, and see whether your tests notice.

    Nothing is written: the tests import each mutant from memory. A status of 1 says that a mutant
    survived. One that is the rule itself for all shapes that the tests reach is equivalent, and
    has not survived.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What to mutate: pkg.module:name or file.py:name, where name is a custom_vjp or custom_jvp
    function, a class with a backward, or a function that is a backward. Without :name, every rule
    of the module."""
    tests: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint="(default: what pytest collects)"),
    ] = ()
    """The tests to run."""
    marks: Annotated[str | None, tyro.conf.arg(metavar="EXPR", help_behavior_hint="")] = None
    """Only tests with these marks, as pytest -m takes them: "not slow"."""
    limit: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")
    ] = None
    """At most this many mutants, spread evenly over all."""
    helpers: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Mutate the helper functions too that forward and backward share."""
    workers: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one a core)")
    ] = None
    """How many processes run tests."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file to write the result to; never one that is there already."""
    list: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show the mutants, and run nothing."""

    def run(self) -> int:
        """Runs the tests on the mutants, and returns the exit status."""
        from fbp.verify.mutate import MutateError

        try:
            return self._run()
        except MutateError as error:
            print(f"fbp: {error}", file=sys.stderr)
            return 2

    def _run(self) -> int:
        from fbp.verify.mutate import MutateError, mutants_of, score

        for name, value in (("limit", self.limit), ("workers", self.workers)):
            if value is not None and value < 1:
                raise MutateError(f"--{name}: expected a number of 1 or more, got {value}")
        if self.list:
            mutants = mutants_of(self.name, self.helpers)
            for mutant in mutants:
                print(f"{mutant.operator:10} {mutant}")
            print(f"{len(mutants)} mutants")
            return 0
        if self.json and self.json.exists():
            raise MutateError(f"{self.json} exists already: expected a file to be written")
        args = [*self.tests, *(["-m", self.marks] if self.marks else [])]
        result = score(
            self.name,
            args,
            helpers=self.helpers,
            limit=self.limit,
            workers=self.workers,
            on_result=_progress if sys.stderr.isatty() else None,
        )
        print(result)
        if self.json:
            self.json.write_text(result.to_json() + os.linesep, encoding="utf-8")
        return 0 if result.ok else 1


def _progress(result: object, done: int, of: int) -> None:
    end = "\n" if done == of else ""
    print(f"\r{done} of {of} mutants", end=end, file=sys.stderr, flush=True)
