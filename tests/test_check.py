"""`fbp.check`: every verdict, every kind of subject, and what it says of bad input."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.verify import WrongGradientError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7)).astype(np.float32)
G = (1 + 0.1 * RNG.normal(size=7)).astype(np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def rms_norm(x: Any, g: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g


def rms_rule(n: float | None = None, **how: Any) -> Any:
    """Right without n, which stands for 1 over the number of columns."""

    def backward(x: Any, g: Any, dy: Any) -> Any:
        part = 1 / x.shape[-1] if n is None else n
        r = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        dg = (dy * x * r).astype(how.get("sums", x.dtype)).sum(0).astype(g.dtype)
        dh = dy * g
        return r * dh - part * x * r**3 * (dh * x).sum(-1, keepdims=True), dg

    return ruled(rms_norm, backward)


def square(backward: Callable[..., Any]) -> Any:
    return ruled(lambda x: x * x, backward)


RIGHT = square(lambda x, dy: (2 * x * dy,))


def test_a_right_rule_is_ok_and_says_what_it_would_have_caught() -> None:
    report = fbp.check(rms_rule(), X, G)
    assert report.verdict == "OK"
    assert report.ok
    report.raise_if_wrong()
    for row in report.leaves:
        assert row.verdict == "OK"
        assert row.error < 1e-14
        assert row.units < 16
        assert set(row.catches) == {"scaled", "one element", "rolled"}
        assert max(row.catches.values()) <= 1e-8
    assert set(report.variants.values()) == {"same"}
    assert report.probes > 10
    assert report.rules == ("rms_norm",)


def test_a_wrong_term_is_found_and_named() -> None:
    report = fbp.check(rms_rule(n=1.0), X, G)
    assert report.verdict == "WRONG"
    assert [row.verdict for row in report.leaves] == ["WRONG", "OK"]
    best = report.hints[0]
    assert (best.leaf, best.kind) == ("x", "term")
    assert "scale by n = 7 (axis 1 of x)" in best.text
    assert "test_check.py" in best.text
    with pytest.raises(WrongGradientError, match=r"^WRONG rms_norm: x "):
        report.raise_if_wrong()
    assert "WRONG  rms_norm" in str(report)
    assert "\x1b[" in report.card(colour=True)
    assert "\x1b[" not in str(report)


def test_a_report_is_json() -> None:
    report = fbp.check(rms_rule(n=1.0), X, G, budget="fast")
    read = json.loads(report.to_json())
    assert read["ok"] is False
    assert read["verdict"] == "WRONG"
    assert read["leaves"][0]["path"] == "x"
    assert read["leaves"][1]["verdict"] == "OK"


_CALLS = [0]


def _counted(x: Any, dy: Any) -> Any:
    _CALLS[0] += 1
    return (2 * x * dy * (1 + 0.1 * _CALLS[0]),)


def _overflows(x: Any, dy: Any) -> Any:
    return (dy * jnp.exp(x) / (1 + jnp.exp(x)),)


VERDICTS = {
    "no transpose": (
        lambda: ruled(lambda x, w: x @ w, lambda x, w, dy: (dy @ w, x.T @ dy)),
        "WRONG",
    ),
    "sign": (lambda: square(lambda x, dy: (-2 * x * dy,)), "WRONG"),
    "raises": (lambda: square(lambda x, dy: (2 * x @ dy,)), "STRUCTURE"),
    "shape": (lambda: square(lambda x, dy: ((2 * x * dy).sum(0),)), "STRUCTURE"),
    "counts": (lambda: square(_counted), "NONDETERMINISTIC"),
    "rounds": (lambda: rms_rule(sums=jnp.bfloat16), "PRECISION"),
    "overflows": (lambda: ruled(lambda x: jax.nn.softplus(x), _overflows), "RANGE"),
    "once only": (lambda: square(lambda x, dy: (2 * jax.lax.stop_gradient(x) * dy,)), "VARIANT"),
    "no rule": (lambda: lambda x: x * x, "VACUOUS"),
    "constant": (lambda: ruled(lambda x: 0 * x, lambda x, dy: (0 * dy,)), "VACUOUS"),
    "nan": (lambda: ruled(lambda x: x + jnp.nan, lambda x, dy: (dy,)), "UNVERIFIABLE"),
    "half at 0": (
        lambda: ruled(lambda x: jnp.maximum(x, 0), lambda x, dy: (dy * (x > 0),)),
        "CONVENTION",
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_every_verdict(name: str) -> None:
    make, verdict = VERDICTS[name]
    args = {"no transpose": (X[:, :5], X[:, 2:]), "rounds": (X, G)}.get(name, (X,))
    report = fbp.check(make(), *args)
    assert report.verdict == verdict, str(report)
    assert report.ok == (verdict == "CONVENTION")
    assert report.line().startswith(verdict)


def test_a_kink_is_a_choice_but_not_any() -> None:
    def relu(slope: float) -> Any:
        return ruled(
            lambda x: jnp.maximum(x, 0), lambda x, dy: (dy * jnp.where(x == 0, slope, x > 0),)
        )

    assert fbp.check(relu(0.3), X).verdict == "CONVENTION"
    assert fbp.check(relu(1.3), X).verdict == "WRONG"
    assert fbp.check(relu(1.0), X, strict=True).verdict == "WRONG"


INSIDE = {
    "jit": lambda f: jax.jit(f),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0],
    "cond": lambda f: lambda x: jax.lax.cond(x.sum() > -1e9, f, lambda x: x, x),
    "remat": lambda f: jax.checkpoint(lambda x: jnp.sin(f(x))),
    "custom_vjp": lambda f: ruled(
        lambda x: f(x) + x, lambda x, dy: (jax.vjp(f, x)[1](dy)[0] + dy,)
    ),
    "vmap": lambda f: jax.vmap(f),
}


@pytest.mark.parametrize("where", INSIDE)
def test_rules_are_taken_out_and_checked_wherever_they_are(where: str) -> None:
    wrong = square(lambda x, dy: (3 * x * dy,))
    x = 0.3 * X
    assert fbp.check(INSIDE[where](RIGHT), x, budget="fast").verdict == "OK"
    assert fbp.check(INSIDE[where](wrong), x, budget="fast").verdict == "WRONG"


def test_custom_jvp_rules_are_checked() -> None:
    @jax.custom_jvp
    def product(x: Any, z: Any) -> Any:
        return x * z

    @product.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x, z), (dx, dz) = primals, tangents
        return x * z, z * dx - x * dz

    report = fbp.check(product, X, X + 1, budget="fast")
    assert {row.path: row.verdict for row in report.leaves} == {"x": "OK", "z": "WRONG"}
    assert report.hints[0].kind == "sign"


def test_arguments_may_be_trees_integers_keys_and_none() -> None:
    def primal(params: Any, ids: Any, key: Any, nothing: Any) -> Any:
        noise = jax.random.bernoulli(key, 0.5, (3, 7))
        return params["w"][ids] * params["g"] * noise

    def backward(params: Any, ids: Any, key: Any, nothing: Any, dy: Any) -> Any:
        kept = dy * jax.random.bernoulli(key, 0.5, (3, 7))
        dg = (kept * params["w"][ids]).sum(0)
        dw = jnp.zeros_like(params["w"]).at[ids].add(kept * params["g"])
        return {"w": dw, "g": dg}, None, None, None

    args = {"w": X, "g": G}, np.array([1, 3, 1]), jax.random.key(1), None
    report = fbp.check(ruled(primal, backward), *args)
    assert report.verdict == "OK", str(report)
    assert [row.path for row in report.leaves] == ["params.g", "params.w"]


def test_a_rule_that_insists_on_float32_is_still_checked_in_float64() -> None:
    def primal(x: Any) -> Any:
        return jnp.tanh(x.astype(jnp.float32)).astype(x.dtype)

    def backward(x: Any, dy: Any) -> Any:
        y = jnp.tanh(x.astype(jnp.float32))
        return ((dy.astype(jnp.float32) * (1 - y * y)).astype(x.dtype),)

    report = fbp.check(ruled(primal, backward), X)
    assert report.verdict == "OK"
    assert report.leaves[0].excess < 1
    for dtype in (jnp.bfloat16, jnp.float16, np.float64):
        assert fbp.check(ruled(primal, backward), X.astype(dtype), budget="fast").verdict == "OK"


def test_a_function_without_reverse_mode_is_held_against_forward_mode() -> None:
    def primal(a: Any) -> Any:
        def newton(state: Any) -> Any:
            n, y = state
            return n + 1, (y + a / y) / 2

        return jax.lax.while_loop(lambda s: s[0] < 30, newton, (0, 1 + 0 * a))[1]

    a = 1 + np.abs(X[0])
    right = fbp.check(ruled(primal, lambda a, dy: (dy / (2 * jnp.sqrt(a)),)), a)
    assert right.verdict == "OK", str(right)
    assert "forward-mode" in right.reference
    assert fbp.check(ruled(primal, lambda a, dy: (dy / jnp.sqrt(a),)), a).verdict == "WRONG"


def test_a_reference_of_ones_own() -> None:
    rounded = ruled(lambda x: jnp.round(x), lambda x, dy: (dy,))
    assert fbp.check(rounded, X, budget="fast").verdict == "WRONG"
    through = fbp.check(rounded, X, reference=lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x))
    assert through.ok, str(through)


def test_one_nan_of_autodiff_does_not_hide_the_rest() -> None:
    n = np.arange(5, dtype=np.float32)

    def primal(x: Any) -> Any:
        return (jnp.sqrt(n * x * x) * n).sum()

    def backward(factor: float) -> Any:
        return lambda x, dy: (factor * dy * n * jnp.sqrt(n) * jnp.sign(x),)

    assert fbp.check(ruled(primal, backward(7.0)), 1 + n).verdict == "WRONG"
    assert fbp.check(ruled(primal, backward(1.0)), 1 + n).ok


def test_a_lost_stop_gradient_is_wrong() -> None:
    def primal(x: Any) -> Any:
        return x * jax.lax.stop_gradient(x)

    assert fbp.check(ruled(primal, lambda x, dy: (x * dy,)), X).verdict == "OK"
    assert fbp.check(ruled(primal, lambda x, dy: (2 * x * dy,)), X).verdict == "WRONG"


def test_a_new_rule_gets_a_new_verdict() -> None:
    f = square(lambda x, dy: (2 * x * dy,))
    assert fbp.check(f, X, budget="fast").verdict == "OK"
    f.defvjp(lambda x: (x * x, x), lambda x, dy: (3 * x * dy,))
    assert fbp.check(f, X, budget="fast").verdict == "WRONG"


def test_kinks_in_branches_and_ties_in_sorts_are_choices_too() -> None:
    one_at_zero = ruled(lambda x: jnp.maximum(x, 0), lambda x, dy: (dy * (x >= 0),))
    inside = lambda x: jax.lax.cond(x.sum() < jnp.inf, one_at_zero, lambda x: x, x)  # noqa: E731
    assert fbp.check(inside, X, budget="fast").verdict == "CONVENTION"

    def in_order(x: Any) -> Any:
        return x[jnp.argsort(x)] * jnp.arange(7.0)

    def backward(x: Any, dy: Any) -> Any:
        order = jnp.argsort(x[::-1])
        return (jnp.zeros_like(x).at[6 - order].add(dy * jnp.arange(7.0)),)

    assert fbp.check(ruled(in_order, backward), X[0]).ok


def test_an_integer_that_the_function_asks_for_is_tried_though_it_was_not_given() -> None:
    def embed(table: Any, ids: Any) -> Any:
        return jnp.where((ids == 0)[:, None], 0, table[ids])

    def backward(table: Any, ids: Any, dy: Any) -> Any:
        return jnp.zeros_like(table).at[ids].add(dy), None  # and what of the padding's row?

    report = fbp.check(ruled(embed, backward), X, np.asarray([1, 3, 2, 3]))
    assert report.verdict == "WRONG"
    assert "integers: 0 among them" in report.leaves[0].says


def test_zero_is_tried_where_all_was_positive_and_the_function_asks_for_it() -> None:
    def root(x: Any) -> Any:
        return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)

    def of(slope: Callable[..., Any]) -> Any:
        return ruled(root, lambda x, dy: (dy * slope(x),))

    positive = np.abs(X) + 0.1
    safe = of(lambda x: jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1)), 0))
    assert fbp.check(safe, positive).verdict == "OK"
    report = fbp.check(of(lambda x: 0.5 / jnp.sqrt(jnp.maximum(x, 0))), positive)
    assert report.verdict == "RANGE"
    assert "at its thresholds" in report.leaves[0].says


def test_a_saturated_gradient_is_not_held_to_digits_that_nobody_has() -> None:
    def saturating(x: Any) -> Any:
        return jnp.tanh(0.1 * x.sum())

    def backward(x: Any, dy: Any) -> Any:
        y = jnp.tanh((0.1 * x[::-1]).sum())  # near 1 the last digit of y is most of 1 - y^2
        return (dy * (1 - y * y) * 0.1 * jnp.ones_like(x),)

    x = jnp.asarray(np.abs(np.random.default_rng(7).normal(size=13)) + 0.5, "bfloat16")
    assert fbp.check(ruled(saturating, backward), x, seed=7, budget="fast").verdict == "OK"


def test_a_saturated_softmax_may_be_written_by_its_logsumexp() -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax(q @ k.mT) @ v

    def backward(q: Any, k: Any, v: Any, dy: Any) -> Any:
        s = q @ k.mT
        p = jnp.exp(s - jax.nn.logsumexp(s, -1, keepdims=True))  # errs by |s| units
        dp = dy @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        return ds @ k, ds.mT @ q, p.mT @ dy

    shape = (16, 48, 24)
    args = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i in range(3)]
    report = fbp.check(ruled(attend, backward), *args)
    assert report.verdict == "OK", report
    assert all(leaf.error < 1e-9 for leaf in report.leaves), report


@pytest.mark.parametrize(
    "masked",
    [pytest.param(-1e9, marks=pytest.mark.slow), pytest.param(-1e5, marks=pytest.mark.slow), -1e4],
)
def test_a_mask_s_exponents_are_no_excuse(masked: float) -> None:
    """What loses its digits is what the softmax is of."""

    def scaled(x: Any, mean_of_squares: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.maximum(mean_of_squares(x, mean), 0) + 1e-12)
        return (x - mean) * scale, scale

    def stable(x: Any, mean: Any) -> Any:
        return ((x - mean) ** 2).mean(-1, keepdims=True)

    def unstable(x: Any, mean: Any) -> Any:
        return (x**2).mean(-1, keepdims=True) - mean**2

    def p(x: Any) -> Any:
        s = jnp.where(jnp.tri(8, dtype=bool), scaled(x, stable)[0], masked)
        return jax.nn.softmax(s)

    def backward(way: Any) -> Any:
        def given(x: Any, dy: Any) -> Any:
            h, scale = scaled(x, way)
            ds = p(x) * (dy - (p(x) * dy).sum(-1, keepdims=True))
            ds -= ds.mean(-1, keepdims=True) + h * (ds * h).mean(-1, keepdims=True)
            return (scale * ds,)

        return given

    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    assert fbp.check(ruled(p, backward(stable)), x).verdict == "OK"
    assert fbp.check(ruled(p, backward(unstable)), x).verdict == "RANGE"


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, pytest.param(1e-6, marks=pytest.mark.slow)])
def test_a_saturated_softmax_is_no_excuse_for_others(size: float) -> None:
    def f(q: Any, k: Any, w: Any) -> Any:
        return ((jax.nn.softmax(q @ k.mT) @ k) * w).sum() + (w**3).sum()

    def loses(q: Any, k: Any, w: Any, dy: Any) -> Any:
        dq, dk, dw = jax.vjp(f, q, k, w)[1](dy)
        return dq, dk, dw + dy * ((w**5 + 3 * w * w) - w**5 - 3 * w * w)

    def leaks(q: Any, k: Any, w: Any, dy: Any) -> Any:
        dq, dk, dw = jax.vjp(f, q, k, w)[1](dy)
        s = q @ k.mT
        return dq + 1e-8 * (jnp.sign(s) * jnp.maximum(jnp.abs(s) - 2e4, 0)) @ k, dk, dw

    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(12, 24)).astype(np.float32) for _ in range(2))
    w = (size * rng.normal(size=24)).astype(np.float32)
    for backward, leaf in ((loses, "w"), (leaks, "q")):
        if backward is leaks or size == 1:
            report = fbp.check(ruled(f, backward), q, k, w)
            assert [r.path for r in report.leaves if r.verdict != "OK"] == [leaf], report


def test_what_is_kept_between_calls_is_named_by_its_leaf() -> None:
    def product(x: Any, w: Any) -> Any:
        return x * w

    kept: dict[str, Any] = {}
    stale = jax.custom_vjp(product)

    def fwd(x: Any, w: Any) -> Any:
        kept["x"] = x
        return product(x, w), (x, w)

    stale.defvjp(fwd, lambda res, dy: (dy * res[1], dy * kept["x"]))
    report = fbp.check(stale, X, 2 * X)
    assert report.verdict == "STRUCTURE"
    assert {row.path: row.verdict for row in report.leaves} == {"x": "OK", "w": "STRUCTURE"}
    assert "keeps values of one call for another" in str(report)


def test_a_gradient_without_a_derivative_is_named_by_its_leaf() -> None:
    def on_the_host(x: Any) -> Any:
        return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def backward(x: Any, w: Any, dy: Any) -> Any:
        return dy * on_the_host(x) * w, dy * jnp.sin(x)

    report = fbp.check(ruled(lambda x, w: jnp.sin(x) * w, backward), X, 2 * X)
    assert report.verdict == "VARIANT"
    assert {row.path: row.verdict for row in report.leaves} == {"x": "VARIANT", "w": "OK"}


def hints_of(f: Any, *args: Any) -> dict[str, list[str]]:
    """By kind, what explains a wrong rule."""
    report = fbp.check(f, *args)
    assert report.verdict == "WRONG"
    assert not [note for note in report.notes if "no explanation" in note]
    found: dict[str, list[str]] = {}
    for hint in report.hints:
        found.setdefault(hint.kind, []).append(hint.text)
    return found


def test_a_rule_with_a_mask_among_its_arguments_is_explained() -> None:
    def masked(x: Any, mask: Any) -> Any:
        return jnp.where(mask, x * x, 0)

    f = ruled(masked, lambda x, mask, dy: (dy * 2 * x, None))
    hints = hints_of(f, X, X > 0)
    assert any(text.startswith("mask all true") for text in hints["input"])


def test_cotangents_of_two_outputs_that_are_swapped_are_named() -> None:
    def both(x: Any) -> Any:
        return jnp.sin(x), x**2

    f = ruled(both, lambda x, dy: (dy[1] * jnp.cos(x) + dy[0] * 2 * x,))
    assert "swapping the cotangents of outputs 0 and 1 reproduces it" in hints_of(f, X)["cotangent"]


def test_a_cotangent_through_a_square_matrix_and_not_its_transpose_is_named() -> None:
    def twice(x: Any, w: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def backward(x: Any, w: Any, dy: Any) -> Any:
        h = jnp.tanh(x @ w)
        da = dy * (1 - jnp.tanh(h @ w) ** 2)
        db = (da @ w) * (1 - h * h)
        return db @ w.T, x.T @ db + h.T @ da

    square = RNG.normal(size=(7, 7)).astype(np.float32)
    hints = hints_of(ruled(twice, backward), X, square)
    assert any("transpose the matrix" in text for text in hints["term"])


def test_ties_in_a_dtype_of_few_digits_are_looked_at_one_at_a_time() -> None:
    rule = ruled(jnp.logaddexp, lambda a, b, dy: (dy * jax.nn.sigmoid(a - b),) * 2)
    right = ruled(
        jnp.logaddexp, lambda a, b, dy: (dy * jax.nn.sigmoid(a - b), dy * jax.nn.sigmoid(b - a))
    )
    args = [jnp.asarray(a, "bfloat16") for a in (X, RNG.normal(size=X.shape))]
    for seed in range(3):
        assert fbp.check(right, *args, seed=seed).verdict == "OK"
    assert fbp.check(rule, *args).verdict == "WRONG"


def test_large_arrays_lose_no_stage() -> None:
    x = RNG.normal(size=(64, 64)).astype(np.float32)

    def primal(x: Any) -> Any:
        return jnp.tanh(jnp.maximum(x, 0))

    def backward(x: Any, dy: Any) -> Any:
        rounded = dy.astype(jnp.float16).astype(dy.dtype)
        return (rounded * (x > 0) * (1 - primal(x) ** 2),)

    assert fbp.check(ruled(primal, backward), x, budget="fast").verdict == "PRECISION"


def test_complex_rules() -> None:
    z = (X + 1j * X[::-1]).astype(np.complex64)
    assert fbp.check(square(lambda x, dy: (2 * x * dy,)), z, budget="fast").verdict == "OK"
    report = fbp.check(square(lambda x, dy: (3 * x * dy,)), z, cotangent=z)
    assert report.verdict == "WRONG"
    assert report.hints[0].text == "3/2 times the reference"


@dataclasses.dataclass(frozen=True)
class HalfBias(fbp.Dense):
    """Its db is half of what it should be."""

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
        dparams, dx = super().backward(params, x, res, dy)
        return {**dparams, "b": dparams["b"] / 2}, dx


@dataclasses.dataclass(frozen=True)
class Doubled(fbp.MeanSquaredError):
    """Its dy is twice what it should be."""

    def element(self, y: Any, target: Any) -> Any:
        loss, slope = super().element(y, target)
        return loss, 2 * slope


def test_layers_losses_and_objectives_are_checked() -> None:
    params = fbp.Dense(7, 3).init(jax.random.key(0))
    assert fbp.check(fbp.Dense(7, 3), params, X, budget="fast").verdict == "OK"
    report = fbp.check(HalfBias(7, 3), params, X, budget="fast")
    assert report.name == "HalfBias"
    assert {row.path: row.verdict for row in report.leaves} == {
        **{"params.b": "WRONG", "params.w": "OK", "x": "OK"}
    }
    assert report.hints[0].text == "1/2 times the reference"
    assert fbp.check(fbp.MeanSquaredError(), X, X + 1, budget="fast").verdict == "OK"
    assert fbp.check(Doubled(), X, X + 1, budget="fast").verdict == "WRONG"
    objective = fbp.Objective(HalfBias(7, 3), fbp.SoftmaxCrossEntropy())
    start = objective.init(jax.random.key(0))
    report = fbp.check(objective, start, (X, np.array([0, 1, 2, 0, 1])), budget="fast")
    assert [r.path for r in report.leaves if r.verdict == "WRONG"] == ["params.model.b"]


BAD = {
    "integers only": (
        lambda: fbp.check(lambda x: jnp.argmax(x), X),
        "expected an output with floats, got int32",
    ),
    "no floats": (
        lambda: fbp.check(RIGHT, np.arange(3)),
        "expected an argument with floats to differentiate, got x int",
    ),
    "other outputs": (
        lambda: fbp.check(RIGHT, X, reference=lambda x: x.sum()),
        r"expected outputs float32\[5,7\], got float32\[\]",
    ),
    "raises": (lambda: fbp.check(RIGHT, X, X), "raises on these arguments"),
    "budget": (
        lambda: fbp.check(RIGHT, X, budget="all"),
        "expected budget fast, default or thorough, got 'all'",
    ),
    "argnums": (
        lambda: fbp.check(RIGHT, X, argnums=7),
        "expected argnums within 1 arguments, got 7",
    ),
    "cotangent": (
        lambda: fbp.check(RIGHT, X, cotangent=X[0]),
        r"expected shapes \[\(5, 7\)\], got \[\(7,\)\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, says = BAD[name]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(
        TypeError, match="expected a function, a Layer, a Loss or an Objective, got 3"
    ):
        fbp.check(3, X)


def test_a_rule_that_raises_is_reported_with_its_stage_and_words() -> None:
    def backward(x: Any, dy: Any) -> Any:
        raise RuntimeError("no such kernel")

    report = fbp.check(square(backward), X)
    assert report.verdict == "STRUCTURE"
    assert report.hints[0].text == "the rule's backward raises RuntimeError: no such kernel"


def test_a_gradient_of_another_form_is_named() -> None:
    def swapped(x: Any, dy: Any) -> Any:
        return ((dy, dy),)

    f = ruled(lambda p: p["a"] * p["b"], swapped)
    report = fbp.check(f, {"a": X, "b": X})
    assert report.verdict == "STRUCTURE"
    assert {row.path for row in report.leaves} == {"p.a", "p.b"}
    assert report.hints[0].text == "the gradient by p is a tuple of another tree than p"
    report = fbp.check(square(lambda x, dy: ((2 * x * dy).sum(0),)), X)
    assert report.hints[0].text == "the gradient by x is of shape (7,), expected (5, 7)"


def test_the_same_check_again_is_quick_and_the_same() -> None:
    f = rms_rule(n=1.0)
    first, second = (fbp.check(f, X, G, seed=3) for _ in range(2))
    assert second.seconds < first.seconds
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(second, seconds=0.0)


@pytest.mark.slow
def test_the_reproduction_runs_and_fails_where_the_rule_is_wrong(tmp_path: Path) -> None:
    source = """
        import jax
        import jax.numpy as jnp

        @jax.custom_vjp
        def scaled(x, g):
            return x * g

        def bwd(res, dy):
            x, g = res
            return dy * g, (dy * x).sum(0) / 2

        scaled.defvjp(lambda x, g: (x * g, (x, g)), bwd)
    """
    (tmp_path / "kernels.py").write_text(textwrap.dedent(source))
    program = (
        "import numpy as np, fbp, kernels\n"
        "x = np.random.default_rng(0).normal(size=(5, 7)).astype('f4')\n"
        "print(fbp.check(kernels.scaled, x, x[0]).repro)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / "repro.py").write_text(made.stdout)
    ran = subprocess.run(
        [sys.executable, "repro.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith("AssertionError: g")
    assert "by the rule" in ran.stdout


def test_pallas_kernels_in_interpret_mode() -> None:
    from jax.experimental import pallas as pl

    def kernel(x_ref: Any, y_ref: Any) -> None:
        y_ref[...] = x_ref[...] * x_ref[...] * x_ref[...]

    def cube(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)

    assert fbp.check(ruled(cube, lambda x, dy: (3 * x * x * dy,)), X).verdict == "OK"
    wrong = fbp.check(ruled(cube, lambda x, dy: (2 * x * x * dy,)), X)
    assert wrong.verdict == "WRONG"
    assert wrong.hints[0].text == "2/3 times the reference"
