"""The fastest step within a budget: what the ledger, the compiler and the clock say."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import fbp
from fbp._tree import nbytes
from fbp.step._plan import _keeps

BLOCK = fbp.Serial(fbp.Dense(16, 64), fbp.Tanh(), fbp.Dense(64, 16))
MODEL = fbp.Serial(start=fbp.Dense(8, 16), blocks=fbp.Stack(BLOCK, 3), end=fbp.Dense(16, 2))
OBJECTIVE = fbp.Objective(MODEL, fbp.MeanSquaredError())
BATCH = jnp.ones((256, 8)), jnp.ones((256, 2))


def memory_of(objective: Any, in_backward: bool) -> int:
    optimizer = optax.adamw(1e-3)
    state = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    step: Any = fbp.step_of(objective, optimizer, in_backward=in_backward)
    found = step.lower(state, BATCH).compile().memory_analysis()
    memory = found.argument_size_in_bytes + found.temp_size_in_bytes
    return memory + found.output_size_in_bytes - found.alias_size_in_bytes


@pytest.mark.slow
def test_the_fastest_that_fits_is_chosen() -> None:
    plan = fbp.plan(OBJECTIVE, BATCH, 2**30)
    tried = [(c.keep, c.in_backward) for c in plan.choices]
    assert tried == [(keep, after) for after in (False, True) for keep in ("everything", "inputs")]
    assert plan.chosen.seconds == min(c.seconds for c in plan.choices)
    assert (plan.objective.model.layers[1].keep, plan.in_backward) == tried[
        plan.choices.index(plan.chosen)
    ]
    assert plan.chosen.memory == memory_of(plan.objective, plan.in_backward)
    for keep, choice in zip(("everything", "inputs"), plan.choices[:2], strict=True):
        model = fbp.Serial(
            start=MODEL.layers[0], blocks=fbp.Stack(BLOCK, 3, keep), end=MODEL.layers[2]
        )
        assert choice.kept == fbp.summary(model, BATCH[0]).kept_bytes

    # With a byte less than what most need, they are not run.
    memory = sorted(c.memory for c in plan.choices)
    less = fbp.plan(OBJECTIVE, BATCH, memory[0], rounds=1)
    assert less.chosen.memory == memory[0]
    assert [c for c in less.choices if c.seconds] == [less.chosen]
    assert str(less).count("beyond the budget") == len(memory) - 1
    said = rf"^plan: expected a budget of {memory[0]:,} bytes or more, got {memory[0] - 1:,}$"
    with pytest.raises(ValueError, match=said):
        fbp.plan(OBJECTIVE, BATCH, memory[0] - 1)


def test_what_is_tried() -> None:
    """By what all of n copies keep, their inputs, and one input."""

    def keeps(n: int, a: int, r: int) -> Any:
        return _keeps(n, {"everything": n * (a + r) + 5, "inputs": n * a + 5, n: a + 5})

    assert keeps(100, 1, 0) == ["everything", "inputs", 2, 10]
    assert keeps(100, 1, 9) == ["everything", "inputs", 2, 3]
    # Two of twelve copies: six inputs, and twice what a copy keeps, are more than twelve and once.
    assert keeps(12, 1, 9) == ["everything", "inputs"]
    assert keeps(1, 1, 9) == keeps(2, 1, 9) == keeps(3, 0, 0) == ["everything", "inputs"]


@pytest.mark.slow
def test_a_plan_for_parts_and_for_what_cannot_run_in_the_backward() -> None:
    objective = fbp.Microbatch(OBJECTIVE, 64)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    plan = fbp.plan(objective, BATCH, 2**30, optimizer=optimizer, rounds=1)
    assert not plan.in_backward
    assert len(plan.choices) == 2
    assert "not tried: in_backward: expected an optimizer whose update" in str(plan)
    assert plan.objective.objective.model.layers[1].keep == plan.chosen.keep
    part = jax.eval_shape(MODEL.forward, MODEL.init(jax.random.key(0)), BATCH[0][:64])
    assert plan.choices[0].kept == nbytes(part[1])


def test_what_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="plan: expected a budget of 1 byte or more, got 0"):
        fbp.plan(OBJECTIVE, BATCH, 0)
    with pytest.raises(ValueError, match="plan: expected a model with a Stack"):
        fbp.plan(fbp.Objective(fbp.Dense(8, 2), fbp.MeanSquaredError()), BATCH, 2**30)
    with pytest.raises(ValueError, match="plan: expected rounds of 1 or more, got 0"):
        fbp.plan(OBJECTIVE, BATCH, 2**30, rounds=0)
    with pytest.raises(TypeError, match=r"plan: expected an Objective, .*, got a Serial"):
        fbp.plan(MODEL, BATCH, 2**30)
