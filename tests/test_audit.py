"""`fbp.audit`: the rules of whole programs, in place."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.verify import WrongGradientError
from fbp.verify.program._program import trace
from fbp.verify.sites._reached import harvest

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def scaled_rule(factor: float) -> Any:
    """y = tanh(x) g; its dg is right for factor = 1."""

    @jax.custom_vjp
    def scaled(x: Any, g: Any) -> Any:
        return jnp.tanh(x) * g

    def backward(res: Any, dy: Any) -> Any:
        x, g = res
        y = jnp.tanh(x)
        return dy * g * (1 - y * y), factor * (dy * y).sum(0)

    scaled.defvjp(lambda x, g: (scaled(x, g), (x, g)), backward)
    return scaled


def network(first: Any, second: Any) -> Any:
    def loss(params: Any, x: Any, t: Any) -> Any:
        def block(h: Any, p: Any) -> Any:
            return h + first(h @ p["w"], p["g"]), None

        h, _ = jax.lax.scan(jax.checkpoint(block), x, params["blocks"])
        h = jax.lax.cond(
            jnp.sum(h) < jnp.inf, lambda h: second(h, params["g"]), lambda h: jax.nn.relu(h), h
        )
        return ((jax.jit(jnp.sin)(h) - t) ** 2).mean()

    return loss


PARAMS = {"blocks": {"w": 0.3 * normal(3, 7, 7), "g": normal(3, 7)}, "g": normal(7)}
BATCH = normal(5, 7), normal(5, 7)


def test_right_rules_are_ok_in_place() -> None:
    report = fbp.audit(network(scaled_rule(1), scaled_rule(1)), PARAMS, *BATCH)
    assert report.ok, str(report)
    assert max(report.gradients.values()) < 1e-13
    assert {site.rule for site in report.sites} == {"scaled", "relu"}
    report.raise_if_wrong()


def test_the_rule_that_breaks_the_whole_is_named() -> None:
    report = fbp.audit(network(scaled_rule(1), scaled_rule(2)), PARAMS, *BATCH)
    assert report.verdict == "WRONG"
    (culprit,) = report.culprits
    assert culprit.rule == "scaled"
    assert culprit.effect == pytest.approx(1.0)
    assert culprit.source.startswith("test_audit.py:")
    assert [row.path for row in culprit.report.leaves if row.verdict == "WRONG"] == ["g"]
    assert "what breaks it: scaled" in str(report)
    assert json.loads(report.to_json())["sites"][0]["report"]["name"]
    off = [path for path, error in report.gradients.items() if error > 1e-6]
    assert off == ["params.g"]
    with pytest.raises(WrongGradientError, match=r"^WRONG loss: scaled \(test_audit.py:"):
        report.raise_if_wrong()


def test_a_rule_inside_a_scan_breaks_what_is_upstream() -> None:
    report = fbp.audit(network(scaled_rule(2), scaled_rule(1)), PARAMS, *BATCH)
    assert report.verdict == "WRONG"
    assert [site.rule for site in report.culprits] == ["scaled"]
    assert report.gradients["params.blocks.g"] > 0.1
    assert report.gradients["params.g"] < 1e-13


def test_what_reaches_a_rule_is_what_reaches_it_in_the_program() -> None:
    rule = scaled_rule(1)
    x, g = normal(5, 7), normal(7)

    def loss(values: Any) -> Any:
        h, _ = jax.lax.scan(lambda h, _: (rule(h, values[1]), None), values[0], None, length=2)
        return [(h**3).sum()]

    program = trace(loss, [x, g])
    (reached,) = harvest(program, [x, g], [0, 1], [np.ones((), np.float32)], [0])
    assert reached.site.lengths == (2,)
    inputs, cotangents = reached.at(1)
    h1 = np.tanh(x) * g
    h2 = np.tanh(h1) * g
    np.testing.assert_allclose(inputs[0], h1, rtol=1e-5)
    np.testing.assert_allclose(cotangents[0], 3 * h2**2, rtol=1e-4, atol=1e-7)
    first, dy = reached.at(0)
    np.testing.assert_allclose(first[0], x)
    np.testing.assert_allclose(dy[0], 3 * h2**2 * g * (1 - np.tanh(h1) ** 2), rtol=1e-3, atol=1e-6)


def test_a_loss_that_casts_inside_is_still_compared() -> None:
    rule = scaled_rule(1)

    def loss(params: Any, x: Any) -> Any:
        return rule((x @ params["w"]).astype(jnp.bfloat16), params["g"]).astype(jnp.float32).sum()

    params = {"w": normal(7, 7), "g": normal(7).astype(jnp.bfloat16)}
    report = fbp.audit(loss, params, BATCH[0])
    assert report.ok, str(report)
    assert max(report.gradients.values()) < 1e-12


def test_no_rule_is_vacuous_and_bad_input_is_one_line() -> None:
    assert fbp.audit(lambda p, x: jnp.sum(p * x), G, G).verdict == "VACUOUS"
    with pytest.raises(ValueError, match="expected an argument with floats to differentiate"):
        fbp.audit(lambda p: p.sum(), np.arange(3))
    with pytest.raises(ValueError, match="raises on these arguments"):
        fbp.audit(lambda p, x: p @ x, G, normal(3))


G = normal(7)


@pytest.mark.parametrize(("factor", "is_ok"), [(0, True), (1, True), (2, False)])
def test_operands_that_params_do_not_reach(factor: float, is_ok: bool) -> None:
    """A rule may give them zero, since nothing uses it, but not a wrong gradient."""
    rule = scaled_rule(factor)

    def loss(w: Any, x: Any) -> Any:
        return (rule(x @ w, jnp.ones(7)) ** 2).mean()

    report = fbp.audit(loss, jnp.eye(7), BATCH[0])
    assert report.ok == is_ok


def test_a_rule_may_refuse_operands_that_params_do_not_reach() -> None:
    @jax.custom_vjp
    def scaled(w: Any, x: Any) -> Any:
        return w * x

    def forward(w: Any, x: Any) -> Any:
        assert not x.perturbed
        return w.value * x.value, x.value

    scaled.defvjp(forward, lambda x, dy: (dy * x, None), symbolic_zeros=True)
    w, x = jnp.arange(1.0, 8.0), BATCH[0][0]
    assert fbp.audit(lambda w, x: jnp.tanh(scaled(w, x)).sum(), w, x).verdict == "OK"


@pytest.mark.torch
def straight_through() -> Any:
    @jax.custom_vjp
    def quantize(x: Any) -> Any:
        return jnp.round(4 * x) / 4

    quantize.defvjp(lambda x: (quantize(x), None), lambda _, dy: (dy,))
    return quantize


def passed_through(x: Any) -> Any:
    return x + jax.lax.stop_gradient(jnp.round(4 * x) / 4 - x)


def test_a_rule_that_is_expected_to_differ() -> None:
    quantize, x = straight_through(), jnp.asarray([0.3, -1.1, 0.7])

    def loss(w: Any) -> Any:
        return jnp.sum(jnp.tanh(quantize(w * x)) ** 2)

    w = jnp.float32(0.8)
    assert fbp.audit(loss, w).verdict == "WRONG"
    report = fbp.audit(loss, w, expect={"quantize": "a straight-through estimator"})
    assert report.ok
    assert report.sites[0].report.verdict == "WRONG"
    assert "quantize is expected to differ: a straight-through estimator" in str(report)
    assert fbp.audit(loss, w, expect={"quantize": passed_through}).verdict == "OK"
    twice = lambda x: 2 * passed_through(x)  # noqa: E731
    assert not fbp.audit(loss, w, expect={"quantize": twice}).ok


def test_exceptions_that_are_not_needed_are_named() -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, dy: (3 * x * x * dy,))
    x = jnp.asarray([0.3, -1.1, 0.7])
    report = fbp.audit(lambda x: cube(x).sum(), x, expect={"cube": "unsure", "sqare": "a typo"})
    assert "cube is right here, and needs no exception" in str(report)
    assert "no rule named sqare is reached" in str(report)
    with pytest.raises(TypeError, match="expect of cube: expected a reason or a function, got int"):
        fbp.audit(lambda x: cube(x).sum(), x, expect={"cube": 3})  # type: ignore[dict-item]


def test_a_sampler_that_rejects_is_no_function_of_its_parameters() -> None:
    @jax.custom_vjp
    def exponential(rate: Any, key: Any) -> Any:  # from proposals that may be rejected
        def step(carry: Any) -> Any:
            key, _, _ = carry
            key, one, two = jax.random.split(key, 3)
            x = 5 * jax.random.uniform(one) / jax.lax.stop_gradient(rate)
            return key, x, jax.random.uniform(two) > jnp.exp(-rate * x)

        return jax.lax.while_loop(lambda c: c[2], step, (key, 0 * rate, True))[1]

    def bwd(res: Any, dx: Any) -> Any:
        rate, x = res
        return -dx * x / rate, None

    def fwd(rate: Any, key: Any) -> Any:
        x = exponential(rate, key)
        return x, (rate, x)

    exponential.defvjp(fwd, bwd)
    key = jax.random.key(3)

    def loss(rate: Any) -> Any:
        return exponential(rate, key) ** 2

    report = fbp.audit(loss, jnp.float32(0.7))
    assert report.verdict == "UNVERIFIABLE"
    assert "implicit reparametrisation" in str(report)
    assert "what breaks it" not in str(report)
    assert fbp.audit(loss, jnp.float32(0.7), expect={"exponential": "implicit"}).ok


def test_flax_and_equinox_programs() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")
    rule = scaled_rule(2)

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.inner, self.g = nnx.Linear(7, 7, rngs=rngs), nnx.Param(jnp.ones(7))

        def __call__(self, x: Any) -> Any:
            return rule(self.inner(x), self.g[...])

    graph, state = nnx.split(Net(nnx.Rngs(0)))

    def nnx_loss(state: Any, x: Any) -> Any:
        return (nnx.merge(graph, state)(x) ** 2).mean()

    report = fbp.audit(nnx_loss, state, BATCH[0])
    assert [site.rule for site in report.culprits] == ["scaled"]

    model = eqx.nn.MLP(7, 7, 8, 1, activation=jax.nn.relu, key=jax.random.key(0))

    def eqx_loss(model: Any, x: Any) -> Any:
        return (rule(jax.vmap(model)(x), jnp.ones(7)) ** 2).mean()

    report = fbp.audit(eqx_loss, model, BATCH[0])
    assert [site.rule for site in report.culprits] == ["scaled"]
    assert report.verdict == "WRONG"


def test_an_audit_that_is_out_of_time_says_so() -> None:
    one, two = scaled_rule(1), scaled_rule(2)

    def loss(x: Any) -> Any:
        return jnp.sum(one(two(jnp.sin(x), x), x) ** 2)

    report = fbp.audit(loss, jnp.asarray([0.3, -1.1, 0.7]), seconds=1e-6)
    assert report.verdict != "OK"
    assert "out of time after seconds=1e-06: left out" in str(report)
    with pytest.raises(ValueError, match="audit: expected seconds above 0, got 0"):
        fbp.audit(loss, jnp.ones(3), seconds=0)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (1.01, "WRONG")])
def test_what_cannot_be_judged_alone_is_judged_with_the_whole(factor: float, verdict: str) -> None:
    """A rule that closes over a value of the loss, and without which it has no gradient."""

    def loss(a: Any) -> Any:
        scale = jnp.ones(3).sum()

        def doubled(b: Any) -> Any:
            return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * b, c[1] + 1), (b, 0))[0]

        rule = jax.custom_vjp(doubled)
        rule.defvjp(
            lambda b: (doubled(b), b), lambda b, dy: (dy * 4 * factor * b**3 * (scale / 3),)
        )
        return rule(2 * a)

    report = fbp.audit(loss, jnp.float32(0.7))
    assert report.verdict == verdict
    assert any("checked as parts of the whole" in note for note in report.notes) == report.ok


def test_operands_are_named_by_the_parameters_of_the_rule() -> None:
    """Also where an argument is a tree, as the params of a layer are."""

    @jax.custom_vjp
    def affine(params: Any, x: Any) -> Any:
        return params["w"] * x + params["b"]

    def forward(params: Any, x: Any) -> Any:
        return affine(params, x), (params, x)

    def backward(res: Any, dy: Any) -> Any:
        return {"w": dy * res[1], "b": 2 * dy}, dy * res[0]["w"]

    affine.defvjp(forward, backward)
    params = {"w": jnp.float32(0.5), "b": jnp.float32(0.1)}
    report = fbp.audit(lambda params, x: affine(params, x), params, jnp.float32(0.7))
    rows = {row.path: row.verdict for row in report.sites[0].report.leaves}
    assert rows["params.b"] == "WRONG"
    assert rows["params.w"] == "OK"
