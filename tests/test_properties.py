"""Properties of random networks, losses and batches, in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ACTIVATIONS, assert_close, cast
from hypothesis import given, settings
from hypothesis import strategies as st

import fbp

# Roundings of 2.2e-16, summed over at most 6 layers of width 8 and 8 examples, and a digit for what
# cancels; a wrong term is of order 1.
ROUNDING = 1e-11

SEEDS = st.integers(0, 2**31)
LOSSES = {
    "mse": fbp.MeanSquaredError(),
    "huber": fbp.Huber(0.7),
    "sigmoid": fbp.SigmoidCrossEntropy(),
    "labels": fbp.SoftmaxCrossEntropy(label_smoothing=0.1),
    "ignore": fbp.SoftmaxCrossEntropy(ignore=0),
}


def targets(rng: Any, name: str, n: int, classes: int) -> Any:
    if name in ("labels", "ignore"):
        return jnp.asarray(rng.integers(classes, size=n))
    return jnp.asarray(rng.random((n, classes)))


def numbers(rng: Any, *shape: int) -> Any:
    return jnp.asarray(2 * rng.normal(size=shape))


@functools.cache
def compiled(loss: fbp.Loss) -> Any:
    return jax.jit(lambda y, target: loss.value_and_grad((), y, target))


@pytest.mark.slow
@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    n=st.integers(1, 8),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    loss=st.sampled_from(sorted(LOSSES)),
    remat=st.booleans(),
    seed=SEEDS,
)
def test_a_random_network_has_the_gradient_of_autodiff(
    sizes: list[int], n: int, activation: str, loss: str, remat: bool, seed: int
) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        model: fbp.Layer = fbp.models.mlp(sizes, ACTIVATIONS[activation])
        objective = fbp.Objective(fbp.Remat(model) if remat else model, LOSSES[loss])
        shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0)))
        params = cast(jax.tree.map(lambda a: rng.normal(size=a.shape), shapes), jnp.float64)
        batch = numbers(rng, n, sizes[0]), targets(rng, loss, n, sizes[-1])

        @jax.jit
        def both(params: Any, batch: Any) -> Any:
            hand = objective.value_and_grad(params, batch)
            return hand, jax.value_and_grad(objective.value)(params, batch)

        hand, auto = both(params, batch)
        np.testing.assert_allclose(hand[0], auto[0], rtol=ROUNDING)
        # A dead unit's gradient is 0 on both sides; a nearly dead one's is measured by the largest.
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(auto[1]))
        for got, want in zip(jax.tree.leaves(hand[1]), jax.tree.leaves(auto[1]), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING * largest)


def _both(layer: fbp.Layer) -> Any:
    def f(x: Any, dy: Any) -> Any:
        y, res = layer.forward((), x)
        return y, layer.backward((), x, res, dy)[1]

    return jax.jit(f)


SOFTMAX, LOG_SOFTMAX = _both(fbp.Softmax()), _both(fbp.LogSoftmax())


@settings(max_examples=30)
@given(shift=st.integers(-1000, 1000), seed=SEEDS)
def test_softmax_does_not_see_a_shift(shift: int, seed: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        # Multiples of 2^-20: adding a whole number to them is exact, so the results are too.
        x = jnp.round(numbers(rng, 3, 5) * 2**20) / 2**20
        dy = numbers(rng, 3, 5)
        for f in (SOFTMAX, LOG_SOFTMAX):
            (y, dx), (y_s, dx_s) = f(x, dy), f(x + shift, dy)
            # LogSoftmax subtracts what was added, in the end of the calculation or before it.
            np.testing.assert_allclose(y_s, y, rtol=1e-13)
            np.testing.assert_allclose(dx_s, dx, rtol=0, atol=1e-13 * float(jnp.abs(dx).max()))
        # What a shift changes is nothing: the gradient along it is 0.
        for f in (SOFTMAX, LOG_SOFTMAX):
            sums = f(x, dy)[1].sum(-1)
            np.testing.assert_allclose(sums, 0, atol=1e-14 * 5 * float(jnp.abs(dy).sum()))
        np.testing.assert_allclose(SOFTMAX(x, dy)[0].sum(-1), 1, rtol=1e-14)
        np.testing.assert_allclose(jnp.exp(LOG_SOFTMAX(x, dy)[0]), SOFTMAX(x, dy)[0], rtol=1e-13)


@settings(max_examples=30)
@given(loss=st.sampled_from(sorted(LOSSES)), seed=SEEDS)
def test_the_order_of_a_batch_does_not_matter(loss: str, seed: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        y, target = numbers(rng, 7, 4), targets(rng, loss, 7, 4)
        order = rng.permutation(7)
        value, _, dy = compiled(LOSSES[loss])(y, target)
        value_p, _, dy_p = compiled(LOSSES[loss])(y[order], target[order])
        np.testing.assert_allclose(value_p, value, rtol=1e-13)
        # Each row is its own; only the number of rows comes in.
        assert_close(dy_p, dy[order], 1e-15)


@settings(max_examples=30)
@given(loss=st.sampled_from(sorted(LOSSES)), seed=SEEDS)
def test_a_batch_twice_is_the_same_mean(loss: str, seed: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        y, target = numbers(rng, 7, 4), targets(rng, loss, 7, 4)
        value, _, dy = compiled(LOSSES[loss])(y, target)
        twice = [jnp.concatenate([a, a]) for a in (y, target)]
        value_2, _, dy_2 = compiled(LOSSES[loss])(*twice)
        np.testing.assert_allclose(value_2, value, rtol=1e-13)
        assert_close(dy_2[:7] + dy_2[7:], dy, 1e-15)
        # A weight of 2 is an example twice.
        weight = jnp.asarray([2.0, 1, 1, 1, 1, 1, 1])
        value_w, _, dy_w = compiled(LOSSES[loss])(y, fbp.Weighted(target, weight))
        more = [jnp.concatenate([a, a[:1]]) for a in (y, target)]
        value_m, _, dy_m = compiled(LOSSES[loss])(*more)
        np.testing.assert_allclose(value_w, value_m, rtol=1e-13)
        assert_close(dy_w, dy_m[:7].at[0].add(dy_m[7]), 1e-14)


@pytest.mark.slow
@settings(max_examples=10)
@given(
    size=st.integers(1, 9),
    n=st.integers(1, 8),
    loss=st.sampled_from(sorted(LOSSES)),
    weighted=st.booleans(),
    seed=SEEDS,
)
def test_parts_of_any_size_are_the_whole(
    size: int, n: int, loss: str, weighted: bool, seed: int
) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        whole = fbp.Objective(fbp.Dense(3, 4), LOSSES[loss])
        params = fbp.ObjectiveParams({"w": numbers(rng, 3, 4), "b": numbers(rng, 4)}, ())
        x, target = numbers(rng, n, 3), targets(rng, loss, n, 4)
        if weighted:
            target = fbp.Weighted(target, jnp.asarray(rng.integers(3, size=n) / 2))
        value, dparams = jax.jit(whole.value_and_grad)(params, (x, target))
        parts = jax.jit(fbp.Microbatch(whole, size).value_and_grad)
        got, dgot = parts(params, (x, target))
        np.testing.assert_allclose(got, value, rtol=1e-12)
        assert_close(dgot, dparams, ROUNDING)
