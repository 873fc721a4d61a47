"""The result of `fbp.audit`, as a value."""

import dataclasses
import math

from fbp._columns import align
from fbp._html import lines, shown, table
from fbp.verify.report._card import FAILING, Report, as_json
from fbp.verify.report._cross_check import WrongGradientError


@dataclasses.dataclass(frozen=True)
class SiteReport:
    """One custom rule of a program, with all equal calls of it.

    Attributes:
      rule: the function the rule belongs to.
      source: file and line of the first call, or of the rule if that is not known, or "".
      calls: how many calls there are; those in loops count once.
      report: what a check with the real inputs and cotangents of the first call found.
      effect: how far this rule alone moves the gradient of the whole from its reference, relative
        to the largest change of a leaf; NaN where that cannot be told.
      expected: why the verdict does not count, as `expect` of the audit said; else "".
    """

    rule: str
    source: str
    calls: int
    report: Report
    effect: float
    expected: str = ""


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """The result of `fbp.audit`; `str()` formats it as a page.

    Attributes:
      name: the loss.
      verdict: one word: the most severe of the sites' verdicts and the whole gradient's.
      gradients: for each leaf of params, the relative error of the whole gradient in float64.
      sites: a report for every custom rule.
      notes: remarks for the reader.
      seconds: how long it took.
    """

    name: str
    verdict: str
    gradients: dict[str, float]
    sites: tuple[SiteReport, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every rule can be trusted."""
        return self.verdict not in FAILING

    @property
    def culprits(self) -> tuple[SiteReport, ...]:
        """The sites whose rule is not right, by effect on the whole gradient, largest first."""
        quiet = ("OK", "CONVENTION", "VACUOUS")
        counting = [site for site in self.sites if not site.expected]
        wrong = [site for site in counting if site.report.verdict not in quiet]
        return tuple(
            sorted(wrong, key=lambda site: -(0.0 if math.isnan(site.effect) else site.effect))
        )

    def raise_if_wrong(self) -> None:
        """Raises WrongGradientError with the report in one line, unless `ok`."""
        if not self.ok:
            raise WrongGradientError(self.line())

    def line(self) -> str:
        """The report in one line."""
        said = [f"{s.rule} ({s.source}): {s.report.line()}" for s in self.culprits[:2]]
        return f"{self.verdict} {self.name}: {'; '.join(said or self.notes)}"

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON, with NaN and infinities as strings."""
        sites = [{**vars(site), "report": site.report.fields()} for site in self.sites]
        return as_json({"ok": self.ok, **vars(self), "sites": sites}, indent)

    def __str__(self) -> str:
        return self.card()

    def card(self, colour: bool = False) -> str:
        """The report as text: a table of the sites, then a card for each that is not OK."""
        rows = [align(self.table())] if self.sites else []
        cards = [report.card(colour) for report in self._not_ok()]
        return "\n".join([self._head(), *rows, *self._expected(), *cards, *self._below()])

    def table(self) -> list[list[str]]:
        """The cells of the table of rules; the first row is the header."""
        rows = [["rule", "called at", "calls", "verdict", "moves the gradient by"]]
        return rows + [
            [s.rule, s.source, str(s.calls), s.report.verdict, _moves(s.effect)] for s in self.sites
        ]

    def _repr_html_(self) -> str:
        rows = [table(self.table(), FAILING)] if self.sites else []
        cards = [report._repr_html_() for report in self._not_ok()]
        above = lines(self._head()), *rows, lines(*self._expected())
        return shown(*above, *cards, lines(*self._below()))

    def _head(self) -> str:
        off = max(self.gradients.values(), default=0.0)
        head = f"{self.verdict}  {self.name}: {len(self.sites)} custom rules"
        whole = f"off by {off:.1e} of its leaf in float64" if self.gradients else "not compared"
        return f"{head}; the whole gradient is {whole}" if self.sites else head

    def _expected(self) -> list[str]:
        return [f"{s.rule} is expected to differ: {s.expected}" for s in self.sites if s.expected]

    def _not_ok(self) -> list[Report]:
        return [s.report for s in self.sites if s.report.verdict != "OK" and not s.expected]

    def _below(self) -> list[str]:
        """The lines below all cards."""
        said = []
        wrong = {path: e for path, e in self.gradients.items() if e > 1e-6}
        if wrong:
            named = ", ".join(f"{path} by {e:.1e}" for path, e in list(wrong.items())[:8])
            said.append(f"gradients that are off: {named}")
        if self.culprits and self.culprits[0].effect > 1e-6:
            culprit = self.culprits[0]
            said.append(f"what breaks it: {culprit.rule}, called at {culprit.source}")
        said += [f"note  {note}" for note in self.notes]
        return [*said, f"{self.seconds:.2f} s"]


def _moves(effect: float) -> str:
    return "not known" if math.isnan(effect) else f"{effect:.1e}"
