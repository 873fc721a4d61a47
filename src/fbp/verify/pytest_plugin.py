"""The pytest plugin: fixtures `fbp_check` and `fbp_audit`, and a test for each registered rule.

    # pyproject.toml
    [tool.pytest.ini_options]
    fbp_rules = ["pkg.kernels"]    # fbp.register(rms_norm, x, gamma) in it: the test fbp::rms_norm

    [tool.fbp.expect]
    quantize = "a straight-through estimator"    # a rule that is meant to differ: see `_expected`

A failing test shows the report's card. Loading the plugin imports neither jax nor numpy.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fbp.verify.registry._pytest_items import (
    NODE,
    REPORTS,
    Card,
    Rules,
    WrongRuleError,
    asked,
    exceptions,
    keep,
)
from fbp.verify.report._json import content_of, is_reports

if TYPE_CHECKING:
    from fbp.verify.report._audit import AuditReport
    from fbp.verify.report._card import Report


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
        "--fbp-seconds",
        metavar="S",
        type=_positive,
        help="the time limit of each check; its report says what was left out",
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
    config.addinivalue_line("markers", f"{NODE}: a registered rule, which fbp checks")
    config.pluginmanager.register(_Session(config), "fbp-session")


@pytest.fixture
def fbp_check(request: pytest.FixtureRequest) -> Callable[..., "Report"]:
    """`fbp.check`, which fails the test with the report's card if a rule is wrong."""

    def fbp_check(f: Any, *args: Any, **options: Any) -> "Report":
        __tracebackhide__ = True
        from fbp.verify._check import check

        report = check(f, *args, **{**options, **asked(request.config)})
        caller = sys._getframe(1)
        file = os.path.relpath(caller.f_code.co_filename, request.config.rootpath)
        keep(request.node, report, f"{file}:{caller.f_lineno}")
        return report

    return fbp_check


@pytest.fixture
def fbp_audit(request: pytest.FixtureRequest) -> Callable[..., "AuditReport"]:
    """`fbp.audit`, which fails the test with the report if a rule is wrong.

    The exceptions in pyproject.toml are its `expect`, if it is given none.
    """

    def fbp_audit(loss: Any, params: Any, *batch: Any, **options: Any) -> "AuditReport":
        __tracebackhide__ = True
        from fbp.verify._audit import audit

        options = {"expect": exceptions(request.config), **options, **asked(request.config)}
        report = audit(loss, params, *batch, **options)
        caller = sys._getframe(1)
        file = os.path.relpath(caller.f_code.co_filename, request.config.rootpath)
        keep(request.node, report, f"{file}:{caller.f_lineno}")
        return report

    return fbp_audit


class _Session:
    """The options of one pytest run, and its reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reports: list[dict[str, Any]] = []
        self._file = self._new_file()
        chosen = [arg for arg in config.args if _is_rule(config, arg)]
        # These name rules, not files: pytest must not look for them.
        config.args[:] = [arg for arg in config.args if arg not in chosen]
        modules = [*config.getoption("--fbp-rules")]
        # If tests are named on the command line, only those are run.
        if chosen or config.args_source != pytest.Config.ArgsSource.ARGS:
            modules += config.getini("fbp_rules")
        names = {arg.partition("::")[2] for arg in chosen}
        self._modules = list(dict.fromkeys(modules))
        self._chosen = set() if "" in names else names

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        # Rules are added before any items are deselected.
        if self._modules or self._chosen:
            rules = Rules.from_parent(
                session, name=NODE, nodeid=NODE, modules=self._modules, chosen=self._chosen
            )
            items.extend(session.genitems(rules))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        report = yield
        error = call.excinfo and call.excinfo.value
        if isinstance(error, WrongRuleError) and not item.config.getoption("fulltrace"):
            report.longrepr = Card(error)
        if call.when == "call" and item.config.getoption("--fbp-json"):
            # An attribute of the report is sent with it from a pytest-xdist worker.
            kept = item.stash.get(REPORTS, [])
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
        """The file to write, or None; raises UsageError if it exists and is not a report file."""
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


def _is_rule(config: pytest.Config, arg: str) -> bool:
    """Whether an argument is the node id of a rule, and not a file."""
    path = Path(arg.partition("::")[0])
    return path.name == NODE and not (config.invocation_params.dir / path).exists()


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text!r}")
    return number


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
    return int(text)
