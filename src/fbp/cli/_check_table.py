"""The table of `fbp check`."""

from collections.abc import Sequence

from fbp.verify.registry._registry import Rule
from fbp.verify.report._card import Report


class Table:
    """Prints a line for each rule as soon as it is checked."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._width = max(len(rule.name) for rule in rules)
        head = f"{'rule':{self._width}}  {'verdict':16}  seconds"
        print(head, "-" * len(head), sep="\n", flush=True)

    def row(self, report: Report) -> None:
        line = f"{report.name:{self._width}}  {report.verdict:16}  {report.seconds:7.2f}"
        print(line, flush=True)

    def end(self, reports: Sequence[Report]) -> None:
        wrong = sum(not report.ok for report in reports)
        seconds = sum(report.seconds for report in reports)
        said = f"{wrong} of {len(reports)} rules wrong" if wrong else f"{len(reports)} rules right"
        print(f"{said}; {seconds:.1f} s", flush=True)
