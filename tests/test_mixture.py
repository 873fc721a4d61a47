"""Mixtures of experts: the router, the loss that balances it, and a whole mixture."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, cast, rule

import fbp
from fbp import Weighted
from fbp._layer import Array, Key, PyTree

# A few roundings of numbers of at most 4, in float64.
CLOSE = 1e-13
ROUNDING = 1e-12
ones = jnp.ones


# TopKRouter.


@pytest.mark.parametrize("renormalise", [True, False])
def test_the_k_most_probable_experts(renormalise: bool, x64: None) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 6))
    y, _ = fbp.TopKRouter(2, renormalise).forward((), jnp.asarray(x))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    order = np.argsort(-p, -1)[..., :2]
    w = np.take_along_axis(p, order, -1)
    if renormalise:
        w = w / w.sum(-1, keepdims=True)
    np.testing.assert_array_equal(y["indices"], order)
    np.testing.assert_allclose(y["weights"], w, rtol=CLOSE)


def test_of_equal_logits_the_first_are_chosen() -> None:
    x = jnp.asarray([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0] * 5])
    y, res = fbp.TopKRouter(2).forward((), x)
    np.testing.assert_array_equal(y["indices"], [[1, 2], [0, 1]])
    np.testing.assert_array_equal(y["weights"], 0.5)
    dy = {"weights": jnp.asarray([[4.0, 0.0], [0.0, 4.0]]), "indices": None}
    _, dx = fbp.TopKRouter(2).backward((), x, res, dy)
    np.testing.assert_array_equal(dx, [[0, 1, -1, 0, 0], [-1, 1, 0, 0, 0]])


def test_one_expert_has_the_whole_weight_or_its_probability() -> None:
    x = jnp.log(jnp.asarray([0.5, 0.25, 0.25]))
    dy = {"weights": jnp.asarray([8.0]), "indices": None}
    y, res = fbp.TopKRouter(1).forward((), x)
    np.testing.assert_array_equal(y["weights"], 1)
    np.testing.assert_array_equal(fbp.TopKRouter(1).backward((), x, res, dy)[1], 0)
    switch = fbp.TopKRouter(1, renormalise=False)
    y, res = switch.forward((), x)
    np.testing.assert_allclose(y["weights"], [0.5], rtol=1e-6)
    _, dx = switch.backward((), x, res, dy)
    np.testing.assert_allclose(dx, [2, -1, -1], rtol=1e-6)


def test_logits_beyond_what_exp_can_hold() -> None:
    x = jnp.asarray([[1e4, -1e4, 1e4], [-3e38, 3e38, 0.0]])
    for layer in (fbp.TopKRouter(2), fbp.TopKRouter(2, renormalise=False)):
        y, res = layer.forward((), x)
        np.testing.assert_array_equal(y["weights"], [[0.5, 0.5], [1, 0]])
        _, dx = layer.backward((), x, res, {"weights": ones((2, 2)), "indices": None})
        np.testing.assert_array_equal(dx, 0)


@pytest.mark.parametrize("renormalise", [True, False])
def test_a_router_of_few_digits_computes_in_float32(renormalise: bool) -> None:
    layer, rng = fbp.TopKRouter(3, renormalise), np.random.default_rng(0)
    x = jnp.asarray(3 * rng.normal(size=(50, 7)), jnp.bfloat16)
    dy = {"weights": jnp.asarray(rng.normal(size=(50, 3)), jnp.bfloat16), "indices": None}
    wide, dwide = jax.tree.map(lambda a: a.astype(jnp.float32), (x, dy))
    y, res = layer.forward((), x)
    want, _ = layer.forward((), wide)
    np.testing.assert_array_equal(y["weights"], want["weights"].astype(jnp.bfloat16))
    _, dx = layer.backward((), x, res, dy)
    _, dwant = layer.backward((), wide, res, dwide)
    np.testing.assert_array_equal(dx, dwant.astype(jnp.bfloat16))


def test_what_cannot_be_routed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^TopKRouter: expected k of 1 or more, got 0$"):
        fbp.TopKRouter(0)
    for x in (ones((5, 2)), ones(())):
        with pytest.raises(ValueError, match=r"^TopKRouter: expected x \(\.\.\., E\) with 3 exp"):
            fbp.TopKRouter(3).forward((), x)
    with pytest.raises(TypeError, match=r"^TopKRouter: expected x to be a float array, got int32"):
        fbp.TopKRouter(1).forward((), ones((5, 2), jnp.int32))


# LoadBalance.


def balance(y: Any, weight: Any, k: int) -> Any:
    """The loss as in the papers, one token after another; f is a constant."""
    y, n = jnp.asarray(y), y.shape[-1]
    y, weight = y.reshape(-1, n), np.asarray(weight, float).reshape(-1)
    f = np.zeros(n)
    for row, counts in zip(np.asarray(jax.lax.stop_gradient(y)), weight, strict=True):
        for expert in np.argsort(-row, kind="stable")[:k]:
            f[expert] += counts / k
    e = jnp.exp(y - y.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return n * (f * (weight[:, None] * p).sum(0)).sum() / weight.sum() ** 2


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (3,), (1, 3)], ids=str)
def test_the_loss_and_its_gradient(shape: Any, k: int, x64: None) -> None:
    rng = np.random.default_rng(k)
    y = jnp.asarray(2 * rng.normal(size=shape))
    loss = fbp.LoadBalance(k)
    for counts in (np.ones(shape[:-1]), rng.integers(1, 4, size=shape[:-1])):
        with jax.disable_jit():
            want = balance(y, counts, k)
        value, dparams, dy = jax.jit(loss.value_and_grad)((), y, jnp.asarray(counts))
        assert dparams == ()
        np.testing.assert_allclose(value, want, rtol=CLOSE)
        np.testing.assert_allclose(loss.value((), y, jnp.asarray(counts)), want, rtol=CLOSE)
        by_autodiff = jax.grad(lambda y, c=counts: loss.value((), y, jnp.asarray(c)))(y)
        # With one expert of one, all of it cancels.
        assert_close(dy, by_autodiff, ROUNDING, floor=1e-16)
        small = 1e-6
        for _ in range(3):
            way = jnp.asarray(rng.normal(size=shape))
            up, down = (balance(y + s * way, counts, k) for s in (small, -small))
            # Central differences, while no choice changes: an error of the order of small^2.
            np.testing.assert_allclose((dy * way).sum(), (up - down) / (2 * small), atol=1e-8)


def test_tokens_that_do_not_count_are_as_if_not_there(x64: None) -> None:
    y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))
    counts = jnp.asarray([True, True, False, True, False, True])
    loss = fbp.LoadBalance(2)
    want, _, dwant = loss.value_and_grad((), y[counts], ones(4))
    bad = y.at[2].set(jnp.nan).at[4].set(jnp.inf)
    for target in (counts, counts.astype(jnp.int8), Weighted(ones(6, bool), counts), 3.0 * counts):
        value, _, dy = loss.value_and_grad((), bad, target)
        np.testing.assert_allclose(value, want, rtol=CLOSE)
        assert_close(dy[counts], dwant, ROUNDING)
        np.testing.assert_array_equal(dy[~counts], 0)
    assert loss.weight(counts) == 4
    assert loss.weight(Weighted(counts, 2.0 * ones(6))) == 8
    value, _, dy = loss.value_and_grad((), y, jnp.zeros(6))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


def test_the_loss_is_one_where_all_are_equally_busy_and_more_elsewhere() -> None:
    even = 30.0 * jnp.eye(5)
    np.testing.assert_allclose(fbp.LoadBalance().value((), even, ones(5)), 1, rtol=1e-6)
    one = jnp.zeros((7, 5)).at[:, 2].set(30.0)
    np.testing.assert_allclose(fbp.LoadBalance().value((), one, ones(7)), 5, rtol=1e-6)
    # Down the gradient tokens leave the expert that has most of them.
    _, _, dy = fbp.LoadBalance().value_and_grad((), jnp.zeros((7, 5)).at[:, 2].set(1.0), ones(7))
    assert (dy[:, 2] > 0).all()
    assert (jnp.delete(dy, 2, 1) < 0).all()


def test_the_dtypes_of_a_balance() -> None:
    y = jnp.asarray(np.random.default_rng(0).normal(size=(300, 5)), jnp.bfloat16)
    loss = fbp.LoadBalance(2)
    value, _, dy = loss.value_and_grad((), y, ones(300, bool))
    want, _, dwant = loss.value_and_grad((), y.astype(jnp.float32), ones(300, bool))
    assert (value.dtype, dy.dtype) == (jnp.float32, jnp.bfloat16)
    assert value == want
    np.testing.assert_array_equal(dy, dwant.astype(jnp.bfloat16))
    # In float16 counts of more than 65504 would be infinite.
    assert loss.weight(jnp.full(7, 60_000, jnp.float16)) == 420_000
    assert loss.weight(jnp.full(7, 100_000, jnp.int32)) == 700_000


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^LoadBalance: expected k of 1 or more, got 0$"):
        fbp.LoadBalance(0)
    with pytest.raises(ValueError, match=r"^LoadBalance: expected y \(\.\.\., E\) with 3 experts "):
        fbp.LoadBalance(3).value((), ones((5, 2)), ones(5))
    with pytest.raises(
        ValueError,
        match=r"^LoadBalance: expected target to have the shape of y without its last axis, "
        r"\(5,\), got shape \(5, 2\)$",
    ):
        fbp.LoadBalance().value((), ones((5, 2)), ones((5, 2)))
    with pytest.raises(TypeError, match=r"^LoadBalance: expected y to be a float array, got int"):
        fbp.LoadBalance().value((), ones((5, 2), int), ones(5))


# A mixture, with dense dispatch: every expert sees every token.


@dataclasses.dataclass(frozen=True)
class Experts(fbp.Layer):
    """n copies of a layer side by side, each with its own parameters: (..., D) -> (n, ..., D')."""

    layer: fbp.Layer
    n: int

    def init(self, key: Array) -> PyTree:
        return jax.vmap(self.layer.init)(jax.random.split(key, self.n))

    def forward(self, params: PyTree, x: PyTree, key: Key = None) -> PyTree:
        return jax.vmap(self.layer.forward, (0, None))(params, x)

    def backward(self, params: PyTree, x: PyTree, res: PyTree, dy: PyTree) -> PyTree:
        dparams, dx = jax.vmap(self.layer.backward, (0, None, 0, 0))(params, x, res, dy)
        return dparams, dx.sum(0)


@dataclasses.dataclass(frozen=True)
class Mix(fbp.Layer):
    """The weighted sum of the chosen experts: y = sum_j w_j experts[i_j]."""

    def forward(self, params: PyTree, x: PyTree, key: Key = None) -> PyTree:
        return jnp.einsum("e...d,...e->...d", x["experts"], self._gates(x)), ()

    def backward(self, params: PyTree, x: PyTree, res: PyTree, dy: Array) -> PyTree:
        dexperts = jnp.einsum("...d,...e->e...d", dy, self._gates(x))
        dgates = jnp.einsum("...d,e...d->...e", dy, x["experts"])
        indices = x["route"]["indices"]
        dweights = jnp.take_along_axis(dgates, indices, -1)
        return (), {"experts": dexperts, "route": {"weights": dweights, "indices": None}}

    def _gates(self, x: PyTree) -> Array:
        """Returns the weight of each expert, 0 for those not chosen."""
        weights, indices = x["route"]["weights"], x["route"]["indices"]
        chosen = indices[..., None] == jnp.arange(len(x["experts"]))
        return jnp.where(chosen, weights[..., None], 0).sum(-2)


def mixture(width: int, experts: int, k: int) -> fbp.Layer:
    expert = fbp.Serial(fbp.Dense(width, 2 * width), fbp.Gelu(), fbp.Dense(2 * width, width))
    return fbp.Serial(
        fbp.Parallel(
            experts=Experts(expert, experts),
            route=fbp.Serial(fbp.Dense(width, experts, bias=False), fbp.TopKRouter(k)),
        ),
        Mix(),
    )


def plain_mixture(params: Any, x: Any, k: int) -> Any:
    """The same by indexing: each token's experts, one after another."""
    parts, _ = params
    first, _, last = parts["experts"]
    logits = x @ parts["route"][0]["w"]
    chosen = jnp.argsort(-logits, -1)[:, :k]
    p = jax.nn.softmax(logits, -1)
    y = jnp.zeros_like(x)
    p_chosen = jnp.take_along_axis(p, chosen, -1)
    for j in range(k):
        e = chosen[:, j]
        h = jnp.einsum("td,tdf->tf", x, first["w"][e]) + first["b"][e]
        h = jnp.einsum("tf,tfd->td", jax.nn.gelu(h), last["w"][e]) + last["b"][e]
        y += (p_chosen[:, j] / p_chosen.sum(-1))[:, None] * h
    return y


@pytest.mark.slow
def test_a_mixture_of_experts(x64: None) -> None:
    model = mixture(4, 5, 2)
    params = cast(model.init(jax.random.key(0)), jnp.float64)
    x, dy = jnp.asarray(np.random.default_rng(0).normal(size=(2, 11, 4)))
    y, vjp = jax.vjp(functools.partial(plain_mixture, k=2), params, x)
    np.testing.assert_allclose(model.forward(params, x)[0], y, rtol=0, atol=CLOSE)
    assert_close(jax.jit(functools.partial(rule, model))(params, x, dy), vjp(dy), ROUNDING)


def test_the_check_of_a_mixture() -> None:
    model = mixture(3, 5, 2)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    assert fbp.check(model, model.init(jax.random.key(0)), x, budget="fast").ok


@pytest.mark.slow
def test_experts_that_nobody_chose_have_no_gradient() -> None:
    model = mixture(3, 4, 1)
    params = model.init(jax.random.key(0))
    params[0]["route"][0]["w"] = jnp.zeros((3, 4))
    x = ones((5, 3))
    dparams, _ = rule(model, params, x, x)
    for leaf in jax.tree.leaves(dparams[0]["experts"]):
        assert (leaf[0] != 0).any()
        np.testing.assert_array_equal(leaf[1:], 0)
