"""`fbp.check` on a sample of the planted bugs and of the rules that are right.

All of them, beside other checkers, are in `tests/checkers/comparison/`.
"""

import importlib.util
import re

import alternatives
import comparison
import numpy as np
import planted
import pytest

import fbp

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BUGS = [b for b in planted.BUGS if "parallel" not in b.name][::19]
# One for each way in which a cause is found.
NAMED = [
    *("wave/constant_added", "affine/largest_rows_of_dw", "projection/tail_overlaps"),
    *("channels/tail_lost_of_scale", "masked_softmax/uniform_if_empty", "gelu/tail_cut"),
    *("padded_decay/mask_in_the_carry_only", "padded_decay/mask_run_forwards"),
    *("weighted_mean/count_for_sum", "log_partition_jvp/not_divided", "lower_solve/dl_full"),
    *("solve/not_transposed", "solve/dy_in_da", "factor/not_symmetrised"),
    *("fixed_point/one_neumann_term", "runge_kutta/w_not_transposed", "neighbours/not_transposed"),
    *("pooled/length_ignored", "window_attention/off_by_one", "reversed_within/not_turned_back"),
]
LIBRARIES = re.compile("pallas.ops|hyp|special|stats|flax|equinox|optax|ode")
RULES = [r for r in alternatives.RULES if not LIBRARIES.search(r.name)][::17]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_found_and_their_leaves_named(bug: planted.Bug) -> None:
    report = fbp.check(bug.make(), *bug.args(np.random.default_rng(0), "tiny"))
    assert report.verdict in bug.verdicts, str(report)
    quiet = ("OK",) if report.verdict == "CONVENTION" else ("OK", "CONVENTION")
    assert {row.path for row in report.leaves if row.verdict not in quiet} == set(bug.leaves)


@pytest.mark.parametrize("name", NAMED)
def test_the_first_line_names_the_cause(name: str) -> None:
    (bug,) = [bug for bug in planted.BUGS if bug.name == name]
    report = fbp.check(bug.make(), *bug.args(np.random.default_rng(0), "tiny"))
    first = report.hints[0]
    assert any(comparison.names(first, right) for right in bug.right), str(report)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_right_rules_raise_no_alarm(rule: alternatives.Rule) -> None:
    for needed in rule.needs:
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    args = rule.args(np.random.default_rng(0), "tiny")
    report = fbp.check(rule.make(), *args, reference=rule.reference)
    assert report.ok, str(report)
