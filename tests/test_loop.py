"""The loop: what it keeps when training goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.train._loop import batches, evaluator, fit

X = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
DATA = X, (2 * X + 1).astype(np.float32)


def train(optimizer, *, steps, chunks, data=DATA, params=None):
    objective = fbp.Objective(fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0)) if params is None else params
    lines = []
    result = fit(
        objective,
        params,
        optimizer,
        batches(*data, batch=4, seed=0),
        evaluator(objective, data, None),
        steps=steps,
        chunks=chunks,
        log=lambda step, metrics: lines.append((step, metrics)),
    )
    return objective, result, lines


def test_learns_and_measures():
    _, result, lines = train(optax.adam(0.03), steps=200, chunks=4)
    assert result.trouble is None
    assert [step for step, _ in lines] == [0, 50, 100, 150, 200]
    assert result.metrics["loss"] < 0.01 < lines[0][1]["loss"]


def test_chunks_do_not_change_what_is_learned():
    _, one, _ = train(optax.adam(0.03), steps=20, chunks=1)
    _, many, _ = train(optax.adam(0.03), steps=20, chunks=20)
    jax.tree.map(
        # 20 steps, each rounding at float32's 6e-8.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        one.params,
        many.params,
    )


def explode_at(step):
    """Gradient descent that multiplies the parameters by 1e30 at one update."""

    def update(updates, state, params):
        factor = jnp.where(state == step, 1e30, 0.0)
        small = jax.tree.map(lambda u, p: -0.01 * u + factor * p, updates, params)
        return small, state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


@functools.cache
def after_good_updates(steps):
    return train(optax.sgd(0.01), steps=steps, chunks=1)[1].params


# Inside a chunk, at its first and last update, in the first chunk, and in one of one step.
@pytest.mark.parametrize("chunks", [1, 4, 20])
@pytest.mark.parametrize("step", [0, 1, 4, 5, 7, 9, 19])
def test_stops_before_the_bad_update(step, chunks):
    objective, result, lines = train(explode_at(step), steps=20, chunks=chunks)
    assert result.step == step
    assert f"update {step + 1} " in result.trouble
    assert lines[-1][0] == step
    assert np.isfinite(float(objective.value(result.params, DATA)))
    if step:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            result.params,
            after_good_updates(step),
        )


def test_a_loss_that_is_not_finite_at_once_is_an_error():
    data = np.full_like(X, np.nan), DATA[1]
    with pytest.raises(FloatingPointError, match="before the first update"):
        train(optax.sgd(0.1), steps=3, chunks=1, data=data)


def test_an_interrupt_keeps_the_last_measured_parameters():
    objective = fbp.Objective(fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError())
    draw = batches(*DATA, batch=4, seed=0)

    def interrupted(start, stop):
        if start == 10:
            raise KeyboardInterrupt
        return draw(start, stop)

    result = fit(
        objective,
        objective.init(jax.random.key(0)),
        optax.sgd(0.1),
        interrupted,
        evaluator(objective, DATA, None),
        steps=20,
        chunks=4,
        log=lambda step, metrics: None,
    )
    assert result.step == 10
    assert result.interrupted
    assert float(objective.value(result.params, DATA)) == pytest.approx(result.metrics["loss"])


def test_batches_are_epochs_and_a_function_of_the_step():
    x = np.arange(10)
    draw = batches(x, x, batch=4, seed=3)
    whole, _ = draw(0, 5)
    assert sorted(whole.ravel()) == sorted([*x, *x])
    assert sorted(whole.ravel()[:10]) == list(x)
    np.testing.assert_array_equal(whole[2:4], draw(2, 4)[0])
    assert not np.array_equal(whole, batches(x, x, batch=4, seed=4)(0, 5)[0])
