"""`fbp.audit` of programs composed at random: no crash, no false alarm, the wrong rule named.

A few programs are tried always, more of them among the slow tests, all with `-m exhaustive` too.
"""

from typing import Any

import pytest
from random_programs import program

import fbp

FEW, MORE, ALL = 2, 10, 500
# Those that were once not as they should be.
ONCE_WRONG = (226, 371, 499)


def _marks(seed: int) -> list[Any]:
    if seed < FEW:
        return []
    if seed < MORE or seed in ONCE_WRONG:
        return [pytest.mark.slow]
    return [pytest.mark.slow, pytest.mark.exhaustive]


SEEDS = [pytest.param(seed, marks=_marks(seed)) for seed in range(ALL)]


@pytest.mark.parametrize("seed", SEEDS)
def test_right_programs_are_ok(seed: int) -> None:
    one = program(seed)
    report = fbp.audit(one.loss, one.params, one.batch)
    allowed = {"OK", "CONVENTION"} if one.has_kink else {"OK"}
    assert report.verdict in allowed, f"{one.text}\n{report}"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_wrong_rule_is_named(seed: int) -> None:
    one = program(seed, wrong=True)
    report = fbp.audit(one.loss, one.params, one.batch)
    assert report.verdict == "WRONG", f"{one.text}\n{report}"
    blamed = {site.rule for site in report.culprits} - {"loss, as a whole"}
    assert blamed == {one.wrong}, f"{one.text}\n{report}"
