"""`fbp.audit` of programs composed at random: no crash, no false alarm, the wrong rule named."""

import pytest
from random_programs import program

import fbp

FEW, MANY = range(12), range(12, 100)
SEEDS = [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)]


@pytest.mark.parametrize("seed", SEEDS)
def test_right_programs_are_ok(seed: int) -> None:
    loss, params, _ = program(seed)
    report = fbp.audit(loss, params)
    assert report.verdict == "OK", report


@pytest.mark.parametrize("seed", SEEDS)
def test_the_wrong_rule_is_named(seed: int) -> None:
    loss, params, name = program(seed, wrong=True)
    report = fbp.audit(loss, params)
    assert report.verdict == "WRONG", report
    assert report.culprits[0].rule == name, report
