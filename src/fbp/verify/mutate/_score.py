"""The outcomes of mutants, and their score."""

import dataclasses
import json
from collections import Counter

from fbp.verify.mutate._operators import Mutant, shortened, shown


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a mutant.

    Attributes:
      mutant: the mutant.
      status: "killed" by a failed check; "error", by a crash or an exception of Python or jax that
        is no AssertionError; "time-out"; "survived"; or "equivalent", where it survived and is the
        function itself for all shapes that the tests reach.
      by: the test that killed it.
      said: the exception of that test, why no test was run, or how it is the function itself.
    """

    mutant: Mutant
    status: str
    by: str = ""
    said: str = ""

    def __str__(self) -> str:
        if self.status == "survived":
            return f"SURVIVED{f' ({self.said})' if self.said else ''}"
        if self.status == "equivalent":
            return f"equivalent: {self.said}"
        if self.status == "time-out":
            return "killed by time-out"
        kind = self.said.partition(":")[0] if self.status == "error" else ""
        return f"killed by {self.by or 'a crash'}{f' ({kind})' if kind else ''}"


@dataclasses.dataclass(frozen=True)
class Score:
    """How many of the mutants the tests killed; `str()` is a table."""

    results: tuple[Result, ...]
    seconds: float = 0.0

    @property
    def killed(self) -> list[Result]:
        """The mutants that the tests noticed."""
        quiet = ("survived", "equivalent")
        return [result for result in self.results if result.status not in quiet]

    @property
    def survived(self) -> list[Result]:
        """The mutants that no test noticed."""
        return [result for result in self.results if result.status == "survived"]

    @property
    def equivalent(self) -> list[Result]:
        """The mutants that no test can notice at the shapes that the tests reach."""
        return [result for result in self.results if result.status == "equivalent"]

    @property
    def ok(self) -> bool:
        """Whether every mutant was killed that is not equivalent."""
        return not self.survived

    def __str__(self) -> str:
        rows = [row_of(result) for result in self.results]
        places = max((len(row[0]) for row in rows), default=0)
        changes = max((len(row[1]) for row in rows), default=0)
        lines = [f"{p:{places}}  {c:{changes}}  {what}" for p, c, what in rows]
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """The last line: `killed 31 of 33, 2 more are equivalent`."""
        odd = Counter(result.status for result in self.killed)
        parts = [f"{odd['error']} by an error", f"{odd['time-out']} by time-out"]
        said = ", ".join(part for part in parts if not part.startswith("0 "))
        same = len(self.equivalent)
        more = f", {same} more {'is' if same == 1 else 'are'} equivalent" if same else ""
        of = len(self.results) - same
        return f"killed {len(self.killed)} of {of}{f' ({said})' if said else ''}{more}"

    def to_json(self) -> str:
        """The score as JSON: `killed`, `equivalent`, `mutants` and a list of `results`."""
        rows = [
            {
                **{k: getattr(r.mutant, k) for k in ("file", "line", "function", "operator")},
                **{"before": r.mutant.before, "after": r.mutant.after},
                **{"status": r.status, "by": r.by, "said": r.said},
            }
            for r in self.results
        ]
        counts = {"killed": len(self.killed), "equivalent": len(self.equivalent)}
        return json.dumps({**counts, "mutants": len(rows), "results": rows}, indent=1)


def row_of(result: Result) -> tuple[str, str, str]:
    """The place, the change and the outcome, as text."""
    mutant = result.mutant
    before, after = shortened(mutant.before, mutant.after)
    return f"{shown(mutant.file)}:{mutant.line}", f"{before}  ->  {after}", str(result)
