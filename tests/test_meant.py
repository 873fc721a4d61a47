"""Gradients that are meant to differ from the derivative, and how a check is told so."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype(np.float32)
W = RNG.normal(size=6).astype(np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def scaled(x: Any, w: Any) -> Any:
    return x * w


@pytest.mark.parametrize("zero", [lambda w: None, jnp.zeros_like])
def test_an_argument_that_is_meant_to_have_no_gradient(zero: Any) -> None:
    f = ruled(scaled, lambda x, w, dy: (w * dy, zero(w)))
    report = fbp.check(f, X, W)
    assert {row.path: row.verdict for row in report.leaves} == {"x": "OK", "w": "WRONG"}
    (said,) = (hint for hint in report.hints if "if that is meant" in hint.text)
    assert said.leaf == "w"
    assert "argnums=(0,), or with jax.lax.stop_gradient(w) in a reference=" in said.text
    assert said.text in str(report)
    # Both ways lead to what is right.
    assert fbp.check(f, X, W, argnums=(0,)).verdict == "OK"
    report = fbp.check(f, X, W, reference=lambda x, w: x * jax.lax.stop_gradient(w))
    assert report.verdict == "OK", str(report)
    # Not so a rule that is wrong elsewhere.
    wrong = ruled(scaled, lambda x, w, dy: (2 * w * dy, None))
    assert fbp.check(wrong, X, W, argnums=(0,)).verdict == "WRONG"


def test_part_of_an_argument_needs_a_reference() -> None:
    f = ruled(
        lambda p, x: p["a"] * x + p["b"],
        lambda p, x, dy: ({"a": (dy * x).sum(0), "b": None}, p["a"] * dy),
    )
    report = fbp.check(f, {"a": W, "b": W}, X)
    (said,) = (hint.text for hint in report.hints if "if that is meant" in hint.text)
    assert "argnums" not in said
    assert "with jax.lax.stop_gradient(p.b) in a reference=" in said


def test_what_is_zero_at_some_inputs_only_is_just_wrong() -> None:
    f = ruled(lambda x: x * x, lambda x, dy: (jnp.where(x > 0, 2 * x * dy, 0.0),))
    report = fbp.check(f, X)
    assert report.verdict == "WRONG"
    assert "if that is meant" not in str(report)


def test_a_straight_through_rule_is_told_how_to_declare_it() -> None:
    f = ruled(lambda x: jnp.round(x), lambda x, dy: (dy,))
    report = fbp.check(f, 3 * X)
    assert report.verdict == "WRONG"
    assert "if that is meant, as in a straight-through rule" in str(report)
    assert fbp.check(f, 3 * X, reference=lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)).ok


# A rounded value meets its bounds exactly: ties that hardly any move of the input breaks.

LOW, HIGH = -4, 3


def quantised(inclusive: bool, factor: float = 1.0) -> Any:
    """clip(round(x / s)) s, of which the gradient passes between the bounds, or at them too."""

    def backward(x: Any, s: Any, dy: Any) -> Any:
        v = x / s
        q = jnp.round(v)
        passes = (q >= LOW) & (q <= HIGH) if inclusive else (q > LOW) & (q < HIGH)
        ds = (dy * jnp.where(passes, q - v, jnp.clip(q, LOW, HIGH))).sum()
        return factor * dy * passes, ds

    return ruled(lambda x, s: jnp.clip(jnp.round(x / s), LOW, HIGH) * s, backward)


def rounded(x: Any, s: Any) -> Any:
    return x / s + jax.lax.stop_gradient(jnp.round(x / s) - x / s)


def by_clip(x: Any, s: Any) -> Any:
    return jnp.clip(rounded(x, s), LOW, HIGH) * s


def by_where(x: Any, s: Any) -> Any:
    q = rounded(x, s)
    return jnp.where(q < LOW, float(LOW), jnp.where(q > HIGH, float(HIGH), q)) * s


@pytest.mark.parametrize("reference", [by_clip, by_where])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_straight_through_rule_is_judged_at_both_sides_of_a_tie(
    reference: Any, seed: int
) -> None:
    args = 3 * X, np.float32(0.7)
    for inclusive in (True, False):
        report = fbp.check(quantised(inclusive), *args, reference=reference, seed=seed)
        assert report.verdict == "OK" if inclusive and reference is by_where else report.ok, report
    report = fbp.check(quantised(True, 0.5), *args, reference=reference, seed=seed, budget="fast")
    assert report.verdict == "WRONG", str(report)
