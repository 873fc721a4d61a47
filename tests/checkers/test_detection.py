"""`fbp.check` on a sample of the planted bugs and of the rules that are right.

All of them, beside other checkers, are in `tests/checkers/comparison/`.
"""

import importlib.util
import re

import alternatives
import numpy as np
import planted
import pytest

import fbp

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BUGS = [b for b in planted.BUGS if "parallel" not in b.name][::19]
LIBRARIES = re.compile("pallas.ops|hyp|special|stats|flax|equinox|optax|ode")
RULES = [r for r in alternatives.RULES if not LIBRARIES.search(r.name)][::17]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_found_and_their_leaves_named(bug: planted.Bug) -> None:
    report = fbp.check(bug.make(), *bug.args(np.random.default_rng(0), "tiny"))
    assert report.verdict in bug.verdicts, str(report)
    quiet = ("OK",) if report.verdict == "CONVENTION" else ("OK", "CONVENTION")
    assert {row.path for row in report.leaves if row.verdict not in quiet} == set(bug.leaves)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_right_rules_raise_no_alarm(rule: alternatives.Rule) -> None:
    for needed in rule.needs:
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    args = rule.args(np.random.default_rng(0), "tiny")
    report = fbp.check(rule.make(), *args, reference=rule.reference)
    assert report.ok, str(report)
