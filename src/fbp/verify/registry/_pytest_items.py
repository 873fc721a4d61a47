"""Registered rules as pytest tests, whose failures show a card instead of a traceback."""

import collections
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fbp.verify.registry._expected import expected
from fbp.verify.registry._named import CheckError, is_said_by_fbp
from fbp.verify.registry._registry import Rule, rules
from fbp.verify.report._cross_check import WrongGradientError

if TYPE_CHECKING:
    from fbp.verify.report._audit import AuditReport
    from fbp.verify.report._card import Report

# The node ids of rules begin with this.
NODE = "fbp"
REPORTS = pytest.StashKey[list["Report | AuditReport"]]()
EXCEPTIONS = pytest.StashKey[dict[str, Any]]()


class Rules(pytest.Collector):
    """The registered rules of some modules."""

    def __init__(self, *, modules: list[str], chosen: set[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._modules, self._chosen = modules, chosen

    def collect(self) -> Iterator[pytest.Item]:
        """Yields a test for each rule."""
        found: dict[int, Rule] = {}
        for module in self._modules:
            found |= {id(rule): rule for rule in self._rules_of(module)}
        counts = collections.Counter(rule.name for rule in found.values())
        named = {
            rule.name if counts[rule.name] == 1 else f"{rule.name}[{rule.module}]": rule
            for rule in found.values()
        }
        if missing := self._chosen - set(named):
            known = ", ".join(named) or "none: fbp_rules says which modules register some"
            raise self.CollectError(
                f"no rule is registered as {', '.join(sorted(missing))}; there are: {known}"
            )
        for name, rule in named.items():
            if not self._chosen or name in self._chosen:
                yield RuleItem.from_parent(self, name=name, rule=rule)

    def _rules_of(self, module: str) -> list[Rule]:
        root = str(self.config.rootpath)
        if root not in sys.path:
            sys.path.append(root)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and f"{module}.".startswith(f"{error.name}."):
                raise self.CollectError(f"fbp_rules: there is no module {error.name}") from None
            raise
        found = rules(module)
        if not found:
            others = sorted({rule.module for rule in rules()})
            known = f"; these do: {', '.join(others)}" if others else ""
            raise self.CollectError(f"fbp_rules: {module} registers no rule{known}")
        return found


class RuleItem(pytest.Item):
    """The test of one rule."""

    def __init__(self, *, rule: Rule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule
        self.add_marker(NODE)

    def runtest(self) -> None:
        """Checks the rule."""
        exception = exceptions(self.config).get(self.name)
        rule = self.rule
        if callable(exception):
            rule = dataclasses.replace(rule, options=rule.options | {"reference": exception})
        try:
            report = rule.check(**asked(self.config))
        except (TypeError, ValueError) as error:
            if not is_said_by_fbp(error):
                raise
            raise CheckError(str(error)) from None
        if isinstance(exception, str):
            if not report.ok:
                self.stash.setdefault(REPORTS, []).append(report)
                pytest.xfail(exception)
            self.warn(pytest.PytestWarning(f"{self.name} is right: it needs no exception"))
        keep(self, report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One line if the rule cannot be checked."""
        if isinstance(excinfo.value, CheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """The file and line of the rule."""
        f = self.rule.f
        try:
            code: Any = inspect.unwrap(f) if callable(f) else type(f)
            file, line = inspect.getfile(code), inspect.getsourcelines(code)[1] - 1
        except (OSError, TypeError):
            file, line = str(self.path), None
        return file, line, f"{NODE}::{self.name}"


class WrongRuleError(WrongGradientError):
    """A check that failed in a test.

    Attributes:
      report: the report of the check.
      place: the line of the test that called the check, or "".
    """

    def __init__(self, report: "Report | AuditReport", place: str = "") -> None:
        super().__init__(str(report))
        self.report, self.place = report, place


class Card:
    """The card that pytest shows instead of a traceback."""

    def __init__(self, error: WrongRuleError) -> None:
        self._report = error.report
        self._after = [*getattr(error, "__notes__", ()), *([error.place] if error.place else ())]
        # The message in pytest's short summary.
        self.reprcrash = SimpleNamespace(message=error.report.line())

    def toterminal(self, tw: Any) -> None:
        tw.line("\n".join([self._report.card(colour=tw.hasmarkup), *self._after]))

    def __str__(self) -> str:
        return "\n".join([str(self._report), *self._after])


def keep(item: pytest.Item, report: "Report | AuditReport", place: str = "") -> None:
    """Keeps a report for the file of reports; raises WrongRuleError unless it is ok."""
    __tracebackhide__ = True
    item.stash.setdefault(REPORTS, []).append(report)
    if not report.ok:
        raise WrongRuleError(report, place)


def exceptions(config: pytest.Config) -> dict[str, Any]:
    """The exceptions in the project's pyproject.toml."""
    if EXCEPTIONS not in config.stash:
        config.stash[EXCEPTIONS] = expected(config.rootpath)
    return config.stash[EXCEPTIONS]


def asked(config: pytest.Config) -> dict[str, Any]:
    """The options that the command line sets for all checks."""
    chosen = {name: config.getoption(f"--fbp-{name}") for name in ("budget", "seed", "seconds")}
    return {name: value for name, value in chosen.items() if value is not None}
