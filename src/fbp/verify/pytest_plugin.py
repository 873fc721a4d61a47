"""The pytest plugin: a fixture `fbp_check`, and rules registered once that are tests by themselves.

    # pyproject.toml
    [tool.pytest.ini_options]
    fbp_rules = ["pkg.kernels"]    # its fbp.register(rms_norm, x, gamma) is the test fbp::rms_norm

A failing test shows the card. Loading the plugin imports neither jax nor numpy.
"""

import argparse
import collections
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fbp.verify.registry._named import CheckError, is_said_by_fbp
from fbp.verify.registry._registry import Rule, rules
from fbp.verify.report._cross_check import WrongGradientError
from fbp.verify.report._json import content_of, is_reports

if TYPE_CHECKING:
    from fbp.verify.report._card import Report

# What the node ids of rules begin with.
_NODE = "fbp"
_REPORTS = pytest.StashKey[list["Report"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("fbp", "fbp: hand-written gradients")
    group.addoption(
        "--fbp-rules",
        metavar="MODULE",
        action="append",
        default=[],
        help="check the rules that this module registers; may be given several times",
    )
    group.addoption(
        "--fbp-budget",
        choices=["fast", "default", "thorough"],
        help="how much to try in each check, whatever it says itself",
    )
    group.addoption(
        "--fbp-seed",
        metavar="N",
        type=_natural,
        help="the seed of each check, whatever it says itself",
    )
    group.addoption(
        "--fbp-json",
        metavar="FILE",
        type=Path,
        help="write all reports to this file: a new one, or one this option wrote before",
    )
    parser.addini("fbp_rules", "modules whose registered rules are checked", "args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Reads the options."""
    config.addinivalue_line("markers", f"{_NODE}: a registered rule, which fbp checks")
    config.pluginmanager.register(_Session(config), "fbp-session")


@pytest.fixture
def fbp_check(request: pytest.FixtureRequest) -> Callable[..., "Report"]:
    """`fbp.check`; the test fails with the card of what is wrong."""

    def fbp_check(f: Any, *args: Any, **options: Any) -> "Report":
        __tracebackhide__ = True
        from fbp.verify._check import check

        report = check(f, *args, **{**options, **_asked(request.config)})
        caller = sys._getframe(1)
        file = os.path.relpath(caller.f_code.co_filename, request.config.rootpath)
        _keep(request.node, report, f"{file}:{caller.f_lineno}")
        return report

    return fbp_check


class WrongRuleError(WrongGradientError):
    """A check that failed in a test.

    Attributes:
      report: what it found.
      place: the line that asked for it, or "".
    """

    def __init__(self, report: "Report", place: str = "") -> None:
        super().__init__(str(report))
        self.report, self.place = report, place


class _Session:
    """What one run of pytest was asked for, and what it found."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reports: list[dict[str, Any]] = []
        self._file = self._new_file()
        chosen = [arg for arg in config.args if _is_rule(config, arg)]
        # There is no such file: pytest must not look for it.
        config.args[:] = [arg for arg in config.args if arg not in chosen]
        modules = [*config.getoption("--fbp-rules")]
        # Who names tests wants those and no others.
        if chosen or config.args_source != pytest.Config.ArgsSource.ARGS:
            modules += config.getini("fbp_rules")
        names = {arg.partition("::")[2] for arg in chosen}
        self._modules = list(dict.fromkeys(modules))
        self._chosen = set() if "" in names else names

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        # Before any are deselected.
        if self._modules or self._chosen:
            rules = Rules.from_parent(
                session, name=_NODE, nodeid=_NODE, modules=self._modules, chosen=self._chosen
            )
            items.extend(session.genitems(rules))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        report = yield
        error = call.excinfo and call.excinfo.value
        if isinstance(error, WrongRuleError) and not item.config.getoption("fulltrace"):
            report.longrepr = _Card(error)
        if call.when == "call" and item.config.getoption("--fbp-json"):
            # An attribute of the test's report goes with it from one process to another.
            kept = item.stash.get(_REPORTS, [])
            report.fbp = [{"test": item.nodeid, **json.loads(r.to_json())} for r in kept]
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._reports += getattr(report, "fbp", ())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._file is not None:
            partial = self._file.with_name(f"{self._file.name}.partial")
            partial.write_text(content_of(self._reports), encoding="utf-8")
            os.replace(partial, self._file)

    def _new_file(self) -> Path | None:
        """The file to write, unless the user has something else there."""
        path = self._config.getoption("--fbp-json")
        if path is None or hasattr(self._config, "workerinput"):
            return None
        path = self._config.invocation_params.dir / path
        if os.path.lexists(path) and not is_reports(path):
            raise pytest.UsageError(
                f"--fbp-json: {path} is there already and is kept: choose another"
            )
        if not path.parent.is_dir():
            raise pytest.UsageError(f"--fbp-json: there is no folder {path.parent}")
        return path


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
        self.add_marker(_NODE)

    def runtest(self) -> None:
        """Checks it."""
        try:
            report = self.rule.check(**_asked(self.config))
        except (TypeError, ValueError) as error:
            if not is_said_by_fbp(error):
                raise
            raise CheckError(str(error)) from None
        _keep(self, report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One line for what cannot be checked."""
        if isinstance(excinfo.value, CheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Where the rule is written."""
        f = self.rule.f
        try:
            code: Any = inspect.unwrap(f) if callable(f) else type(f)
            file, line = inspect.getfile(code), inspect.getsourcelines(code)[1] - 1
        except (OSError, TypeError):
            file, line = str(self.path), None
        return file, line, f"{_NODE}::{self.name}"


class _Card:
    """The card in place of a traceback."""

    def __init__(self, error: WrongRuleError) -> None:
        self._report = error.report
        self._after = [*getattr(error, "__notes__", ()), *([error.place] if error.place else ())]
        # What the line of the summary says.
        self.reprcrash = SimpleNamespace(message=error.report.line())

    def toterminal(self, tw: Any) -> None:
        tw.line("\n".join([self._report.card(colour=tw.hasmarkup), *self._after]))

    def __str__(self) -> str:
        return "\n".join([str(self._report), *self._after])


def _keep(item: pytest.Item, report: "Report", place: str = "") -> None:
    """Keeps a report for the file of reports; raises WrongRuleError unless it is good."""
    __tracebackhide__ = True
    item.stash.setdefault(_REPORTS, []).append(report)
    if not report.ok:
        raise WrongRuleError(report, place)


def _asked(config: pytest.Config) -> dict[str, Any]:
    """What the command line says of all checks."""
    asked = {name: config.getoption(f"--fbp-{name}") for name in ("budget", "seed")}
    return {name: value for name, value in asked.items() if value is not None}


def _is_rule(config: pytest.Config, arg: str) -> bool:
    """Whether an argument is the node id of a rule, and not a file."""
    path = Path(arg.partition("::")[0])
    return path.name == _NODE and not (config.invocation_params.dir / path).exists()


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
    return int(text)
