"""Contrastive and triplet: against autodiff, plain formulas, optax, and at ties and zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import loss_cases
import numpy as np
import optax
import pytest

import fbp
from fbp import Weighted

CONTRASTIVE = fbp.Contrastive(0.5)
TRIPLET = fbp.Triplet(0.5)
SIZES = [(7, 5), (5, 5), (1, 1), (1, 5), (7, 1)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
PARAMS = {"log_scale": jnp.float32(0.75)}


def pairs(size: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=size)) for name in "ab"}


def triplets(size: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=size)) for name in TRIPLET.names}


def plain_contrastive(log_scale: float, y: Any, weight: Any = None) -> float:
    """Row by row, in loops: each example against all others that count."""
    a, b = (np.asarray(y[name]) / np.linalg.norm(y[name], axis=-1, keepdims=True) for name in "ab")
    weight = np.ones(len(a)) if weight is None else np.asarray(weight)
    shown = [j for j in range(len(a)) if weight[j]]
    total = 0.0
    for i in shown:
        of_a = [np.exp(np.exp(log_scale) * a[i] @ b[j]) for j in shown]
        of_b = [np.exp(np.exp(log_scale) * a[j] @ b[i]) for j in shown]
        own = np.exp(np.exp(log_scale) * a[i] @ b[i])
        total -= weight[i] * (np.log(own / sum(of_a)) + np.log(own / sum(of_b))) / 2
    return total / weight.sum()


@each_size
def test_contrastive(size: tuple[int, ...], x64: None) -> None:
    params = {"log_scale": jnp.asarray(0.75)}
    y = pairs(size)
    value, _, _ = loss_cases.agrees(CONTRASTIVE, params, y, None)
    np.testing.assert_allclose(value, plain_contrastive(0.75, y), rtol=1e-12, atol=1e-14)
    if size[0] > 1:
        weight = np.random.default_rng(1).random(size[0])
        weight[1] = 0
        value, _, dy = loss_cases.agrees(
            CONTRASTIVE, params, y, Weighted(None, jnp.asarray(weight))
        )
        want = plain_contrastive(0.75, y, weight)
        np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(dy["a"][1], 0)
        np.testing.assert_array_equal(dy["b"][1], 0)


def test_contrastive_is_optax_symmetrised(x64: None) -> None:
    y = pairs((7, 5))
    a, b = (y[name] / jnp.linalg.norm(y[name], axis=-1, keepdims=True) for name in "ab")
    scores, labels = jnp.exp(0.75) * a @ b.T, jnp.arange(7)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    want = (entropy(scores, labels).mean() + entropy(scores.T, labels).mean()) / 2
    got = CONTRASTIVE.value({"log_scale": jnp.asarray(0.75)}, y, None)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_temperature_at_the_start() -> None:
    params = fbp.Contrastive().init(jax.random.key(0))
    np.testing.assert_allclose(jnp.exp(params["log_scale"]), 1 / 0.07, rtol=1e-6)


def test_lengths_of_embeddings_do_not_matter(x64: None) -> None:
    """The loss has degree 0 in a: its gradient is orthogonal to a, and falls off as 1 / |a|."""
    y = pairs((7, 5))
    value, _, dy = CONTRASTIVE.value_and_grad(PARAMS, y, None)
    np.testing.assert_allclose((y["a"] * dy["a"]).sum(-1), 0, atol=1e-16)
    for factor in (1e-200, 1e200):
        far, _, dfar = CONTRASTIVE.value_and_grad(PARAMS, {**y, "a": factor * y["a"]}, None)
        np.testing.assert_allclose(far, value, rtol=1e-13)
        np.testing.assert_allclose(factor * dfar["a"], dy["a"], rtol=1e-10, atol=1e-16)
        np.testing.assert_allclose(dfar["b"], dy["b"], rtol=1e-10, atol=1e-16)


def test_rows_that_are_zero_or_alike(x64: None) -> None:
    y = pairs((5, 3))
    none = {**y, "a": y["a"].at[2].set(0)}
    value, _, dy = loss_cases.agrees(CONTRASTIVE, {"log_scale": jnp.asarray(0.75)}, none, None)
    assert jnp.isfinite(value)
    np.testing.assert_array_equal(dy["a"][2], 0)
    same = {name: jnp.ones((5, 3)) for name in "ab"}
    value, dparams, dy = CONTRASTIVE.value_and_grad(PARAMS, same, None)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-12)
    np.testing.assert_allclose(dy["a"], 0, atol=1e-15)
    np.testing.assert_allclose(dparams["log_scale"], 0, atol=1e-7)
    zero = {name: jnp.zeros((5, 3)) for name in "ab"}
    np.testing.assert_allclose(CONTRASTIVE.value(PARAMS, zero, None), np.log(5), rtol=1e-12)


@pytest.mark.parametrize("log_scale", [-80.0, 4.6, 20.0, 80.0])
def test_contrastive_at_extreme_temperatures(log_scale: float, x64: None) -> None:
    params = {"log_scale": jnp.asarray(log_scale)}
    y = pairs((7, 5))
    value, dparams, dy = CONTRASTIVE.value_and_grad(params, y, None)
    a, b = (y[name] / jnp.linalg.norm(y[name], axis=-1, keepdims=True) for name in "ab")
    scores = jnp.exp(log_scale) * a @ b.T
    own = jnp.diagonal(scores)
    want = (jax.nn.logsumexp(scores, 1) + jax.nn.logsumexp(scores, 0)) / 2 - own
    np.testing.assert_allclose(value, want.mean(), rtol=1e-12)
    assert all(jnp.isfinite(d).all() for d in jax.tree.leaves((dparams, dy)))


def test_a_contrastive_loss_is_not_cut_into_parts() -> None:
    model = fbp.Parallel(a=fbp.Dense(3, 2), b=fbp.Dense(3, 2))
    objective = fbp.Microbatch(fbp.Objective(model, CONTRASTIVE), 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))
    params = objective.init(jax.random.key(0))
    for target in (None, jnp.arange(7), Weighted(None, jnp.ones(7))):
        with pytest.raises(
            ValueError, match=r"^Contrastive.weight: expected a whole batch, got a "
        ):
            objective.value_and_grad(params, (x, target))
    value, _ = fbp.Microbatch(objective.objective, 7).value_and_grad(params, (x, None))
    assert jnp.isfinite(value)


def plain_triplet(y: Any, margin: float) -> Any:
    near = np.linalg.norm(y["anchor"] - y["positive"], axis=-1)
    return np.maximum(near - np.linalg.norm(y["anchor"] - y["negative"], axis=-1) + margin, 0)


@pytest.mark.parametrize("size", [*SIZES, (2, 3, 5)], ids=str)
@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
def test_triplet(size: tuple[int, ...], margin: float, x64: None) -> None:
    loss, y = fbp.Triplet(margin), triplets(size)
    value, _, _ = loss_cases.agrees(loss, (), y, None)
    np.testing.assert_allclose(value, plain_triplet(y, margin).mean(), rtol=1e-12, atol=1e-14)
    weight = jnp.asarray(np.random.default_rng(1).random(size[:1]))
    loss_cases.agrees(loss, (), y, Weighted(None, weight))


def test_distances_of_zero_and_the_kink() -> None:
    one, two = jnp.asarray([[3.0, 4.0]]), jnp.asarray([[0.0, 0.0]])

    def run(anchor: Any, positive: Any, negative: Any, margin: float) -> Any:
        y = {"anchor": anchor, "positive": positive, "negative": negative}
        value, _, dy = fbp.Triplet(margin).value_and_grad((), y, None)
        return float(value), *(np.asarray(dy[name]) for name in y)

    # At its positive: no pull, only the push of the negative.
    value, da, dp, dn = run(one, one, two, 6.0)
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    np.testing.assert_allclose([da, dp, dn], [[[-0.6, -0.8]], [[0, 0]], [[0.6, 0.8]]], rtol=1e-6)
    # All in one place: the margin is the loss, and no direction is better.
    value, *dy = run(one, one, one, 6.0)
    assert value == 6
    np.testing.assert_array_equal(dy, 0)
    # Just as far as the margin asks.
    value, *dy = run(one, one, two, 5.0)
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_distances_whose_squares_do_not_fit(factor: float) -> None:
    y = jax.tree.map(lambda a: (factor * a).astype(jnp.float32), triplets((7, 5)))
    value, _, dy = fbp.Triplet(0.0).value_and_grad((), y, None)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), y)
        want, _, dwant = fbp.Triplet(0.0).value_and_grad((), wide, None)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    jax.tree.map(lambda d, w: np.testing.assert_allclose(d, w, rtol=1e-4, atol=1e-6), dy, dwant)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cuts", [[3, 5], [1], [2, 3]], ids=str)
def test_uneven_parts_of_triplets_add_up(cuts: list[int], weighted: bool, x64: None) -> None:
    weight = jnp.asarray(np.random.default_rng(2).random(7))
    target = Weighted(None, weight) if weighted else jnp.zeros((7, 3))
    loss_cases.adds_up(TRIPLET, (), triplets((7, 3, 2)), target, cuts)


def test_what_does_not_count_does_not_leak() -> None:
    target = Weighted(None, jnp.asarray([1.0, 0, 2]))
    for loss, params, y in (
        (CONTRASTIVE, PARAMS, pairs((3, 2))),
        (fbp.Triplet(9.0), (), triplets((3, 2))),
    ):
        want = loss.value_and_grad(params, y, target)
        for name in y:
            for bad in (jnp.nan, jnp.inf):
                got = loss.value_and_grad(params, {**y, name: y[name].at[1].set(bad)}, target)
                jax.tree.map(np.testing.assert_array_equal, got, want)
            seen = loss.value(params, {**y, name: y[name].at[0].set(jnp.nan)}, target)
            assert jnp.isnan(seen)
        nothing = loss.value_and_grad(params, y, Weighted(None, jnp.zeros(3)))
        jax.tree.map(lambda a: np.testing.assert_array_equal(a, 0), nothing)


def test_an_empty_batch() -> None:
    for loss, params, y in (
        (CONTRASTIVE, PARAMS, pairs((0, 5))),
        (TRIPLET, (), triplets((0, 5))),
    ):
        value, _, dy = loss.value_and_grad(params, y, None)
        assert value == 0
        assert all(d.shape == (0, 5) for d in dy.values())
    assert TRIPLET.weight(jnp.zeros((0, 3))) == 0


def test_bfloat16(x64: None) -> None:
    # Products of five terms, softmaxes over seven: all in float32.
    loss_cases.rounds_once(CONTRASTIVE, {"log_scale": jnp.asarray(0.75)}, pairs((7, 5)), None, 100)
    loss_cases.rounds_once(TRIPLET, (), triplets((7, 5)), None, 40)


def test_what_is_refused() -> None:
    y = pairs((3, 2))
    with pytest.raises(
        ValueError, match=r"^Contrastive: expected y to be a dict of a, b, got an arr"
    ):
        CONTRASTIVE.value(PARAMS, y["a"], None)
    with pytest.raises(ValueError, match=r"^Contrastive: expected a, b of one shape, of 2 or more"):
        CONTRASTIVE.value(PARAMS, {**y, "a": jnp.ones((4, 2))}, None)
    with pytest.raises(
        ValueError, match=r"^Contrastive: expected a and b \(n, D\), got shape \(2, 3"
    ):
        CONTRASTIVE.value(PARAMS, pairs((2, 3, 2)), None)
    with pytest.raises(ValueError, match=r"^Contrastive: expected params of shapes"):
        CONTRASTIVE.value((), y, None)
    with pytest.raises(
        ValueError, match=r"^Triplet: expected y to be a dict of anchor, positive, "
    ):
        TRIPLET.value((), y, None)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^Contrastive: expected temperature to be positive"):
            fbp.Contrastive(bad)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^Triplet: expected margin to be 0 or more"):
            fbp.Triplet(bad)


def float32(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_check(seed: int) -> None:
    loss_cases.passes(TRIPLET, (), float32(triplets((7, 5), seed)), None, seed=seed)
    y = float32(pairs((7, 5), seed))
    loss_cases.passes(CONTRASTIVE, PARAMS, y, None, budget="fast", seed=seed)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_check_at_length(seed: int) -> None:
    loss_cases.passes(CONTRASTIVE, PARAMS, float32(pairs((7, 5), seed)), None, seed=seed)
    weighted = Weighted(None, jnp.asarray([1.0, 0, 2, 1, 0, 1, 3]))
    loss_cases.passes(CONTRASTIVE, PARAMS, float32(pairs((7, 5), seed)), weighted, seed=seed)


def contrastive_bug(bug: str) -> Any:
    def change(params: Any, y: Any, target: Any, dparams: Any, dy: Any) -> Any:
        lengths = {k: jnp.linalg.norm(v, axis=-1, keepdims=True) for k, v in y.items()}
        a, b = (y[name] / lengths[name] for name in "ab")
        s = jnp.exp(params["log_scale"])
        scores, one = s * a @ b.T, jnp.eye(len(a))
        p, q = jax.nn.softmax(scores, 1), jax.nn.softmax(scores, 0)
        ds = (p + q - 2 * one) / 2 / len(a)
        if bug == "rows_only":
            ds = (p - one) / len(a)
        if bug == "columns_along_rows":
            ds = (p + q.T - 2 * one) / 2 / len(a)
        da, db = s * ds @ b, s * (ds if bug == "not_transposed" else ds.T) @ a
        if bug == "scale_missing":
            da, db = da / s, db / s
        dlog_scale = (ds * scores).sum() / (s if bug == "scale_not_its_logarithm" else 1)
        if bug != "length_taken_for_constant":
            da = da - a * (a * da).sum(-1, keepdims=True)
            db = db - b * (b * db).sum(-1, keepdims=True)
        if bug != "length_dropped":
            da, db = da / lengths["a"], db / lengths["b"]
        return {"log_scale": dlog_scale.astype(dparams["log_scale"].dtype)}, {"a": da, "b": db}

    return change


CONTRASTIVE_BUGS = ["rows_only", "columns_along_rows", "not_transposed", "scale_missing"]
CONTRASTIVE_BUGS += ["scale_not_its_logarithm", "length_taken_for_constant", "length_dropped"]


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, marks=[pytest.mark.slow, pytest.mark.exhaustive] if i % 3 else [])
        for i, bug in enumerate(CONTRASTIVE_BUGS)
    ],
)
def test_a_bug_of_contrastive_is_caught(bug: str) -> None:
    y = float32(pairs((7, 5)))
    loss_cases.is_caught(CONTRASTIVE, contrastive_bug(bug), PARAMS, y, None, seed=0)


def triplet_bug(bug: str) -> Any:
    def change(params: Any, y: Any, target: Any, dparams: Any, dy: Any) -> Any:
        near, far = y["anchor"] - y["positive"], y["anchor"] - y["negative"]
        d, e = (jnp.sqrt(jnp.maximum((v**2).sum(-1, keepdims=True), 1e-30)) for v in (near, far))
        active = d - e + (0 if bug == "margin_missing" else 0.5) > 0
        if bug == "hinge_missing":
            active = jnp.ones_like(active)
        u, v = near / d, far / e
        if bug == "squared":
            u, v = 2 * near, 2 * far
        u, v = jnp.where(active, u, 0) / len(u), jnp.where(active, v, 0) / len(v)
        anchor = u + v if bug == "push_is_a_pull" else u - v
        anchor = u if bug == "anchor_half" else anchor
        return (), {"anchor": anchor, "positive": -u, "negative": v}

    return change


TRIPLET_BUGS = ["margin_missing", "hinge_missing", "squared", "push_is_a_pull", "anchor_half"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bug", TRIPLET_BUGS)
def test_a_bug_of_triplet_is_caught(bug: str, seed: int) -> None:
    y = float32(triplets((7, 5), seed))
    loss_cases.is_caught(TRIPLET, triplet_bug(bug), (), y, None, seed=seed)
