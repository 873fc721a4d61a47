"""`accuracy=`: how far an approximate rule may be off, and how far it may not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.verify import domains
from fbp.verify.registry import _registry

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
A = X.T @ X + np.eye(3, dtype=np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def sine(error: float) -> Any:
    """A rule that errs, in places and by a smooth function, by a part of its largest element."""
    return ruled(jnp.sin, lambda x, dy: ((jnp.cos(x) + 0.5 * error * jnp.sin(3 * x) ** 2) * dy,))


def solved(steps: int) -> Any:
    """The solution of a x = b, its gradient by some steps of gradient descent."""

    def solve(a: Any, b: Any) -> Any:
        return jnp.linalg.solve(a, b)

    def backward(a: Any, b: Any, dy: Any) -> Any:
        rate = 1 / jnp.linalg.norm(a)

        def step(_: int, db: Any) -> Any:
            return db - rate * (a.T @ db - dy)

        db = jax.lax.fori_loop(0, steps, step, jnp.zeros_like(dy))
        return -db[:, None] * jnp.linalg.solve(a, b)[None], db

    return ruled(solve, backward)


def half_at_zero(error: float) -> Any:
    def backward(x: Any, dy: Any) -> Any:
        return (jnp.where(x == 0, 0.3, jnp.sign(x)) * (1 + error) * dy,)

    return ruled(jnp.abs, backward)


def by_callback(error: float) -> Any:
    def primal(x: Any) -> Any:
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return ruled(primal, lambda x, dy: (jnp.cos(x) * (1 + error) * dy,))


@pytest.mark.parametrize(
    ("f", "args", "accuracy", "options"),
    [
        (sine(1e-5), (X,), 2e-5, {}),
        (sine(1e-3), (X,), 2e-3, {}),
        (half_at_zero(1e-3), (X,), 2e-3, {}),
        (by_callback(1e-3), (X,), 2e-3, {}),
        (solved(150), (A, X[0]), 0.05, {"domain": {"a": domains.positive_definite(20)}}),
    ],
)
def test_what_is_within_its_accuracy_is_right_and_its_row_says_so(
    f: Any, args: Any, accuracy: float, options: Any
) -> None:
    assert fbp.check(f, *args, **options).verdict == "WRONG"
    report = fbp.check(f, *args, accuracy=accuracy, **options)
    assert report.ok, str(report)
    assert f"accuracy={accuracy:g}: so much of a gradient's size may" in str(report)
    used = [row for row in report.leaves if "within accuracy" in row.says]
    assert used or report.verdict == "CONVENTION", str(report)
    for row in used:
        assert row.says == f"errs by {row.error:.1e}, within accuracy={accuracy:g}"
        assert 1e-7 < row.error <= accuracy
        # A smaller error would not be caught: the card says so.
        assert row.catches["scaled"] >= accuracy


@pytest.mark.parametrize("f", [sine(1e-3), half_at_zero(1e-3), by_callback(1e-3)])
def test_what_is_not_within_it_is_wrong(f: Any) -> None:
    report = fbp.check(f, X, accuracy=1e-4)
    assert report.verdict == "WRONG", str(report)


def test_a_rule_that_needs_none_says_nothing() -> None:
    report = fbp.check(sine(0.0), X, accuracy=1e-3)
    assert report.verdict == "OK"
    assert report.leaves[0].says == ""
    assert report.leaves[0].catches["scaled"] >= 1e-3


def test_it_holds_for_the_forward_and_in_the_working_dtype() -> None:
    def of(error: float, dtype: Any = None) -> Any:
        def forward(x: Any) -> Any:
            return jnp.sin(x) * (1 + (error if dtype in (None, x.dtype) else 0.0)), x

        def backward(x: Any, dy: Any) -> Any:
            return (jnp.cos(x) * (1 + (error if dtype == x.dtype else 0.0)) * dy,)

        f = jax.custom_vjp(jnp.sin)
        f.defvjp(forward, backward)
        return f

    for f in (of(1e-3), of(1e-3, jnp.float32)):
        assert not fbp.check(f, X).ok
        assert fbp.check(f, X, accuracy=2e-3).verdict == "OK"


def test_a_lost_second_derivative_is_no_matter_of_accuracy() -> None:
    f = ruled(jnp.sin, lambda x, dy: (jax.lax.stop_gradient(jnp.cos(x)) * dy,))
    assert fbp.check(f, X, accuracy=1e-3).verdict == "VARIANT"


def test_a_rule_is_registered_with_its_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_RULES", {})
    fbp.register(sine(1e-4), X, name="sine", accuracy=1e-3)
    (rule,) = _registry.rules()
    assert rule.check().verdict == "OK"
    assert rule.check(accuracy=1e-6).verdict == "WRONG"


@pytest.mark.parametrize("accuracy", [-1e-3, 1, float("nan"), "high", None])
def test_what_is_no_accuracy(accuracy: Any) -> None:
    with pytest.raises(ValueError, match="expected an accuracy from 0 to 1, got"):
        fbp.check(sine(0.0), X, accuracy=accuracy)
