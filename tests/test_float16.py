"""float16: the scale of the loss reaches dy before it is rounded."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import assert_close

import fbp
from fbp._layer import Array

KEY = jax.random.key(0)
# 4,096 rows of 8,192 classes: most of dy is near 3e-8, half of float16's smallest number.
ROWS, CLASSES = 4096, 8192
X, LABELS = jax.random.normal(KEY, (ROWS, 8)), jnp.arange(ROWS) % CLASSES
PLAIN = fbp.Objective(fbp.Dense(8, CLASSES), fbp.SoftmaxCrossEntropy())
HALF = fbp.Objective(fbp.mixed_precision(PLAIN.model, jnp.float16), PLAIN.loss)


def by_value_and_grad(params: Any, scale: float) -> Any:
    return HALF.value_and_grad(params, (X, LABELS), scale=scale)[1]


def by_halves(params: Any, scale: float) -> Any:
    _, res = HALF.forward(params, (X, LABELS))
    return HALF.backward(params, (X, LABELS), res, scale)


def by_to_jax(params: Any, scale: float) -> Any:
    model, loss = fbp.to_jax(HALF.model), fbp.to_jax(HALF.loss)

    def scaled(params: Any) -> Array:
        return scale * loss((), model(params.model, X), LABELS)

    return jax.grad(scaled)(params)


@pytest.mark.parametrize(
    "gradient",
    [by_value_and_grad, *(pytest.param(f, marks=pytest.mark.slow) for f in (by_halves, by_to_jax))],
)
def test_a_scale_saves_what_float16_cannot_hold(gradient: Callable[..., Any]) -> None:
    params = PLAIN.init(KEY)
    exact = jax.jit(PLAIN.value_and_grad)(params, (X, LABELS))[1].model["b"]
    jitted = jax.jit(gradient)

    def error(scale: float) -> float:
        got = jitted(params, scale).model["b"] / scale
        return float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))

    assert error(1.0) > 0.1
    # Then only the rounding of float16 is left, 2^-11 a number.
    for scale in (2.0**10, 2.0**16, 65536.0):
        assert error(scale) < 2.0**-11


@pytest.mark.slow
def test_the_fused_head_is_scaled_too() -> None:
    gpt = fbp.models.gpt2(vocab=512, context=32, width=16, heads=2, layers=1)
    ids = jax.random.randint(KEY, (64, 32), 0, 512)
    exact = fbp.models.NextToken(gpt)
    half = fbp.models.NextToken(fbp.mixed_precision(gpt, jnp.float16))
    params = exact.init(KEY)
    value, want = exact.value_and_grad(params, (ids, ids))

    def worst(scale: float | None) -> float:
        got_value, got = half.value_and_grad(params, (ids, ids), scale=scale)
        assert abs(got_value - value) < 1e-3 * value
        errors = jax.tree.map(
            lambda g, w: float(jnp.linalg.norm(g / (scale or 1) - w) / jnp.linalg.norm(w)),
            got,
            want,
        )
        return max(jax.tree.leaves(errors))

    # Of sums of rounded numbers, with room for the activations' own rounding.
    assert worst(2.0**14) < 2.0**-7
    assert worst(None) > 2 * worst(2.0**14)


def test_a_step_that_is_not_finite_only_halves_the_scale() -> None:
    objective = fbp.Objective(
        fbp.mixed_precision(fbp.Dense(3, 2), jnp.float16), fbp.MeanSquaredError()
    )
    optimizer = fbp.LossScaled(optax.adam(1e-2), scale=2.0**24, every=2)
    state, step = fbp.state_of(objective.init(KEY), optimizer), fbp.step_of(objective, optimizer)
    batch = 4 * jnp.ones((4, 3)), jnp.zeros((4, 2))
    scales = []
    for _ in range(24):
        before = jax.tree.map(jnp.copy, (state.params, state.opt_state.state))
        scale = float(state.opt_state.scale)
        state, value = step(state, batch)
        assert jnp.isfinite(value)
        same = jax.tree.all(
            jax.tree.map(jnp.array_equal, before, (state.params, state.opt_state.state))
        )
        lower = float(state.opt_state.scale) < scale
        assert same == lower
        scales.append(scale)
    # It falls until the gradient fits, then is tried at twice that after every two steps.
    assert min(scales) < 2.0**20
    assert any(b > a for a, b in itertools.pairwise(scales))
    assert all(jnp.isfinite(p).all() for p in jax.tree.leaves(state.params))


def test_what_a_scale_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^LossScaled: expected scale above 0, got 0$"):
        fbp.LossScaled(optax.sgd(0.1), scale=0)
    with pytest.raises(ValueError, match=r"^LossScaled: expected every of 1 or more, got 0$"):
        fbp.LossScaled(optax.sgd(0.1), every=0)
    with pytest.raises(ValueError, match=r"^in_backward: expected an optimizer that needs no whol"):
        fbp.step_of(PLAIN, fbp.LossScaled(optax.sgd(0.1)), in_backward=True)


@pytest.mark.slow
def test_a_small_gpt_in_float16_learns_as_in_float32() -> None:
    gpt = fbp.models.gpt2(vocab=64, context=32, width=32, heads=4, layers=2)
    # Text of a fixed grammar: each token is a function of the two before it, some at random.
    rng = jax.random.split(KEY, 3)
    table = jax.random.randint(rng[0], (64, 64), 0, 64)

    def grow(state: Any, k: Array) -> Any:
        a, b = state
        c = jnp.where(jax.random.bernoulli(k, 0.1), jax.random.randint(k, (), 0, 64), table[a, b])
        return (b, c), c

    _, text = jax.lax.scan(grow, (1, 2), jax.random.split(rng[1], 200 * 16 * 33))
    batches = text.reshape(200, 16, 33)
    batches = batches[..., :-1], batches[..., 1:]

    def losses(model: fbp.Layer, optimizer: Any) -> Array:
        objective = fbp.models.NextToken(model)
        state = fbp.state_of(objective.init(KEY), optimizer)
        return fbp.steps_of(objective, optimizer)(state, batches)[1]

    adam = optax.adam(3e-3)
    want = losses(gpt, adam)
    got = losses(fbp.mixed_precision(gpt, jnp.float16), fbp.LossScaled(adam))
    assert want[-20:].mean() < 0.9 * want[:20].mean()
    assert abs(got[-20:].mean() - want[-20:].mean()) < 0.01 * want[-20:].mean()
    assert (abs(got - want) < 0.02 * want).all()


@pytest.mark.parametrize("wrap", [lambda o: fbp.Clipped(o, 1.0), lambda o: fbp.LossScaled(o)])
def test_a_scale_inside_another_optimizer_is_refused(wrap: Any) -> None:
    objective = fbp.Objective(fbp.Dense(3, 2), fbp.MeanSquaredError())
    optimizer = wrap(fbp.LossScaled(optax.sgd(0.1)))
    step = fbp.step_of(objective, optimizer)
    with pytest.raises(ValueError, match=r"^step: expected LossScaled as the outermost wrapper"):
        step(fbp.state_of(objective.init(KEY), optimizer), (jnp.ones((4, 3)), jnp.zeros((4, 2))))


def test_params_in_float16_are_updated_from_float32() -> None:
    """Momentum in float16 would overflow with the scaled gradient and drop its small steps."""
    params = {"w": jnp.ones(3, jnp.float16)}
    optimizer = fbp.LossScaled(optax.sgd(1e-3, momentum=0.9), scale=2.0**15)
    state = optimizer.init(params)
    assert {a.dtype for a in jax.tree.leaves(state.state)} == {jnp.dtype(jnp.float32)}
    grads = {"w": jnp.full(3, 2.0, jnp.float16)}
    for _ in range(2):
        updates, state = optimizer.update(grads, state, params)
        assert updates["w"].dtype == jnp.float32
        params = optax.apply_updates(params, updates)
    assert params["w"].dtype == jnp.float16
    # Gradients of 2 / 2^15, and their momentum.
    assert_close(updates["w"], jnp.full(3, -1e-3 * 1.9 * 2 / 2**15), 1e-6)
