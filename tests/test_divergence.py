"""KL divergences: against autodiff, plain formulas, optax, and where floats end."""

from typing import Any

import jax
import jax.numpy as jnp
import loss_cases
import numpy as np
import optax
import pytest

import fbp
from fbp import Weighted

NORMAL = fbp.NormalKLDivergence()
SOFTMAX = {
    "logits": fbp.SoftmaxKLDivergence(),
    "warm": fbp.SoftmaxKLDivergence(3.5),
    "cold": fbp.SoftmaxKLDivergence(0.25),
    "probabilities": fbp.SoftmaxKLDivergence(2.0, probabilities=True),
}
SHAPES = [(7, 5), (5, 5), (1, 1), (1, 5), (7, 1), (2, 3, 5)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_softmax = pytest.mark.parametrize("loss", SOFTMAX.values(), ids=SOFTMAX)


def normals(shape: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape)) for name in ("mean", "log_var")}


def logits(loss: Any, shape: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    y, target = jnp.asarray(2 * rng.normal(size=(2, *shape)))
    return y, jax.nn.softmax(target) if loss.probabilities else target


def plain_normal(y: Any) -> Any:
    """log N(z; mean, var) - log N(z; 0, 1), expected under the first."""
    mean, var = np.asarray(y["mean"]), np.exp(np.asarray(y["log_var"]))
    return (-np.log(var) - 1 + var + mean**2).sum(-1) / 2


def plain_softmax(loss: Any, y: Any, target: Any) -> Any:
    p = np.asarray(jax.nn.softmax(y / loss.temperature))
    q = np.asarray(target if loss.probabilities else jax.nn.softmax(target / loss.temperature))
    return loss.temperature**2 * (q * np.log(q / p)).sum(-1)


# The values sum terms of both signs, of the size of 1 or of the temperature's square.
def close(value: Any, want: Any) -> None:
    np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-12)


@each_shape
def test_normal(shape: tuple[int, ...], x64: None) -> None:
    y = normals(shape)
    value, _, _ = loss_cases.agrees(NORMAL, (), y, None)
    close(value, plain_normal(y).mean())
    weight = jnp.asarray(np.random.default_rng(1).random(shape[:1]))
    value, _, _ = loss_cases.agrees(NORMAL, (), y, Weighted(None, weight))
    rows = plain_normal(y)
    wide = np.broadcast_to(weight.reshape(-1, *[1] * (rows.ndim - 1)), rows.shape)
    close(value, (wide * rows).sum() / wide.sum())


def test_normal_is_the_integral(x64: None) -> None:
    """Of density times the logarithm of the ratio of densities, by a sum over a fine grid."""
    mean, log_var = 0.7, -0.4
    z, step = np.linspace(-12, 12, 4001, retstep=True)
    density = np.exp(-((z - mean) ** 2) / 2 / np.exp(log_var)) / np.sqrt(
        2 * np.pi * np.exp(log_var)
    )
    ratio = -((z - mean) ** 2) / 2 / np.exp(log_var) - log_var / 2 + z**2 / 2
    y = {"mean": jnp.asarray([mean]), "log_var": jnp.asarray([log_var])}
    # A smooth function that has fallen off at both ends: the sum is exact to rounding.
    close(NORMAL.value((), y, None), (density * ratio).sum() * step)


@each_shape
@each_softmax
def test_softmax(loss: Any, shape: tuple[int, ...], x64: None) -> None:
    y, target = logits(loss, shape)
    value, _, _ = loss_cases.agrees(loss, (), y, target)
    close(value, plain_softmax(loss, y, target).mean())
    weight = jnp.asarray(np.random.default_rng(1).random(shape[:1]))
    loss_cases.agrees(loss, (), y, Weighted(target, weight))


def test_optax_agrees(x64: None) -> None:
    loss = SOFTMAX["probabilities"]
    y, q = logits(loss, (7, 5))
    rows = optax.kl_divergence(jax.nn.log_softmax(y / loss.temperature), q)
    close(loss.value((), y, q), loss.temperature**2 * rows.mean())


def test_gradient_of_a_soft_target_is_that_of_the_cross_entropy(x64: None) -> None:
    """They differ by the entropy of the target, which does not depend on y."""
    y, q = logits(SOFTMAX["probabilities"], (7, 5))
    _, _, dy = fbp.SoftmaxKLDivergence(probabilities=True).value_and_grad((), y, q)
    _, _, want = fbp.SoftmaxCrossEntropy().value_and_grad((), y, q)
    np.testing.assert_allclose(dy, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cuts", [[3, 5], [1], [2, 3]], ids=str)
def test_uneven_parts_add_up(cuts: list[int], weighted: bool, x64: None) -> None:
    weight = jnp.asarray(np.random.default_rng(2).random(7))
    y = normals((7, 3, 2))
    images = jnp.zeros((7, 4, 4))
    loss_cases.adds_up(NORMAL, (), y, Weighted(None, weight) if weighted else images, cuts)
    for loss in SOFTMAX.values():
        y, target = logits(loss, (7, 3, 2))
        loss_cases.adds_up(loss, (), y, Weighted(target, weight) if weighted else target, cuts)


def test_a_microbatch_of_a_divergence(x64: None) -> None:
    loss = fbp.Losses(kl=(0.5, NORMAL), fit=(1.0, fbp.MeanSquaredError()))
    model = fbp.Parallel(
        kl=fbp.Parallel(mean=fbp.Dense(3, 2), log_var=fbp.Dense(3, 2)), fit=fbp.Dense(3, 3)
    )
    objective = fbp.Objective(model, loss)
    params = jax.tree.map(lambda a: a.astype(float), objective.init(jax.random.key(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))
    batch = x, {"kl": x, "fit": x}
    want = objective.value_and_grad(params, batch)
    got = fbp.Microbatch(objective, 3).value_and_grad(params, batch)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-13)
    loss_cases.assert_close(got[1], want[1], loss_cases.ROUNDING)


def test_what_does_not_count_does_not_leak() -> None:
    weight = jnp.asarray([1.0, 0, 2])
    y = normals((3, 2))
    want = NORMAL.value_and_grad((), y, Weighted(None, weight))
    for bad in (jnp.nan, jnp.inf):
        worse = {**y, "mean": y["mean"].at[1].set(bad)}
        got = NORMAL.value_and_grad((), worse, Weighted(None, weight))
        jax.tree.map(np.testing.assert_array_equal, got, want)
    for loss in SOFTMAX.values():
        z, target = logits(loss, (3, 2))
        want = loss.value_and_grad((), z, Weighted(target, weight))
        got = loss.value_and_grad((), z.at[1].set(jnp.nan), Weighted(target, weight))
        jax.tree.map(np.testing.assert_array_equal, got, want)
        assert jnp.isnan(loss.value((), z.at[0].set(jnp.nan), Weighted(target, weight)))


def test_an_empty_batch() -> None:
    y = normals((0, 5))
    value, _, dy = NORMAL.value_and_grad((), y, jnp.zeros((0, 3)))
    assert (value, dy["mean"].shape, NORMAL.weight(jnp.zeros((0, 3)))) == (0, (0, 5), 0)
    for loss in SOFTMAX.values():
        value, _, dy = loss.value_and_grad((), jnp.zeros((0, 5)), jnp.zeros((0, 5)))
        assert (value, dy.shape, loss.weight(jnp.zeros((0, 5)))) == (0, (0, 5), 0)


@pytest.mark.parametrize("log_var", [0.0, 1e-12, -1e-3, -80.0, -1e4, 80.0, 700.0])
@pytest.mark.parametrize("mean", [0.0, 1e-30, 1e30])
def test_normal_at_the_ends(mean: float, log_var: float, x64: None) -> None:
    y = {"mean": jnp.asarray([mean]), "log_var": jnp.asarray([log_var])}
    value, _, dy = NORMAL.value_and_grad((), y, None)
    want = (mean**2 + (np.expm1(log_var) - log_var)) / 2
    np.testing.assert_allclose(value, want, rtol=1e-14, atol=4e-16 * abs(log_var))
    assert dy["mean"] == mean
    np.testing.assert_allclose(dy["log_var"], [np.expm1(log_var) / 2], rtol=1e-15)


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits(size: float) -> None:
    loss = fbp.SoftmaxKLDivergence(0.25)
    y = jnp.asarray([[size, 0.0, -size], [size, -size, size]])
    value, _, dy = loss.value_and_grad((), y, y)
    assert value == 0
    np.testing.assert_array_equal(dy, 0)
    # The target sure of another class: infinitely far, at last; the gradient is p - q.
    _, _, dy = loss.value_and_grad((), y, jnp.flip(y, 0)[:, ::-1])
    assert jnp.isfinite(dy).all()


def test_classes_of_no_probability() -> None:
    loss = fbp.SoftmaxKLDivergence(probabilities=True)
    y, q = jnp.asarray([[0.0, 1.0, -jnp.inf]]), jnp.asarray([[0.0, 1.0, 0.0]])
    value, _, dy = loss.value_and_grad((), y, q)
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(value, -np.log(p), rtol=1e-6)
    np.testing.assert_allclose(dy, [[1 - p, p - 1, 0]], rtol=1e-6)
    off = fbp.SoftmaxKLDivergence().value((), y, jnp.where(q == 0, -jnp.inf, 0.0))
    np.testing.assert_allclose(off, value, rtol=1e-6)
    assert loss.value((), y, jnp.asarray([[0.0, 0.5, 0.5]])) == jnp.inf


def test_bfloat16(x64: None) -> None:
    # Five terms of a row, of both signs.
    loss_cases.rounds_once(NORMAL, (), normals((7, 5)), None, 40)
    for loss in SOFTMAX.values():
        y, target = logits(loss, (7, 5))
        loss_cases.rounds_once(loss, (), y, target, 200)


def test_what_is_refused() -> None:
    y = normals((3, 2))
    with pytest.raises(
        ValueError, match=r"^NormalKLDivergence: expected y to be a dict of mean, log"
    ):
        NORMAL.value((), y["mean"], None)
    with pytest.raises(
        ValueError, match=r"^NormalKLDivergence: expected mean, log_var of one shape"
    ):
        NORMAL.value((), {**y, "mean": jnp.ones((3, 1))}, None)
    with pytest.raises(ValueError, match=r"^NormalKLDivergence: expected weight to have the first"):
        NORMAL.value((), y, Weighted(None, jnp.ones(4)))
    with pytest.raises(TypeError, match=r"^NormalKLDivergence: expected y\['mean'\] to be a float"):
        NORMAL.value((), {**y, "mean": jnp.ones((3, 2), int)}, None)
    with pytest.raises(ValueError, match=r"^NormalKLDivergence.weight: expected a target whose"):
        NORMAL.weight(None)
    with pytest.raises(
        ValueError, match=r"^SoftmaxKLDivergence: expected y and target of one shape"
    ):
        SOFTMAX["logits"].value((), jnp.ones((3, 2)), jnp.ones((3, 1)))
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^SoftmaxKLDivergence: expected temperature to be"):
            fbp.SoftmaxKLDivergence(temperature)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("budget", ["fast", "default"])
def test_check(budget: Any, seed: int) -> None:
    args = jax.tree.map(lambda a: a.astype(jnp.float32), normals((7, 5), seed))
    loss_cases.passes(NORMAL, (), args, None, budget=budget, seed=seed)
    for name in ("warm", "probabilities"):
        y, target = logits(SOFTMAX[name], (7, 5), seed)
        loss_cases.passes(SOFTMAX[name], (), y, target, budget=budget, seed=seed)


def changed(name: str, change: Any) -> Any:
    return lambda params, y, target, dparams, dy: (dparams, {**dy, name: change(y, dy)})


BUGS = {
    "variance_without_one": changed("log_var", lambda y, dy: dy["log_var"] + 0.5 / 7),
    "log_var_as_log_std": changed("log_var", lambda y, dy: 2 * dy["log_var"]),
    "mean_twice": changed("mean", lambda y, dy: 2 * dy["mean"]),
    "mean_over_elements": changed("mean", lambda y, dy: dy["mean"] / 5),
    "variance_for_its_logarithm": changed("log_var", lambda y, dy: (y["log_var"] - 1) / 14),
}
TEMPERATURE = 3.5


def softmaxes(swap: bool = False, power: int = 1, target_temperature: float = TEMPERATURE) -> Any:
    def bug(params: Any, y: Any, target: Any, dparams: Any, dy: Any) -> Any:
        p, q = jax.nn.softmax(y / TEMPERATURE), jax.nn.softmax(target / target_temperature)
        if swap:  # KL(p || q)
            ratio = jnp.log(p) - jnp.log(q)
            return (), TEMPERATURE * p * (ratio - (p * ratio).sum(-1, keepdims=True)) / len(y)
        return (), TEMPERATURE**power * (p - q) / len(y)

    return bug


SOFTMAX_BUGS = {
    "direction": softmaxes(swap=True),
    "factor_of_the_value": softmaxes(power=2),
    "factor_missing": softmaxes(power=0),
    "target_not_warmed": softmaxes(target_temperature=1.0),
}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_the_normal_is_caught(bug: str, seed: int) -> None:
    loss_cases.is_caught(NORMAL, BUGS[bug], (), normals((7, 5), seed), None, seed=seed)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bug", SOFTMAX_BUGS)
def test_a_bug_of_the_softmax_is_caught(bug: str, seed: int) -> None:
    loss = fbp.SoftmaxKLDivergence(TEMPERATURE)
    y, target = logits(loss, (7, 5), seed)
    loss_cases.is_caught(loss, SOFTMAX_BUGS[bug], (), y, target, seed=seed)
