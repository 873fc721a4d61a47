"""Digits that a rule and autodiff both lose: a note, or PRECISION with strict=True."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.verify.judge._bounds import absolute_allowed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def sinc() -> Any:
    """sin(x) / x, whose derivative cancels near 0."""
    return ruled(
        lambda x: jnp.sin(x) / x, lambda x, dy: ((jnp.cos(x) / x - jnp.sin(x) / (x * x)) * dy,)
    )


def good_sinc() -> Any:
    """The same with a series near 0."""

    def series(x: Any) -> Any:
        return 1 - x * x / 6 + x**4 / 120

    def primal(x: Any) -> Any:
        far = jnp.where(jnp.abs(x) > 0.5, x, 1.0)
        return jnp.where(jnp.abs(x) > 0.5, jnp.sin(far) / far, series(x))

    return ruled(primal, lambda x, dy: (jax.vjp(primal, x)[1](dy)[0],))


def squared_distance() -> Any:
    """x^2 - 2 x y + y^2, with a derivative of the same form: 2 x^2 / x - 2 y."""
    return ruled(
        lambda x, y: (x - y) ** 2 * x / x,
        lambda x, y, dy: ((2 * x * x / x - 2 * y) * dy, (2 * y * y / y - 2 * x) * dy),
    )


def shifted() -> Any:
    """A large number is added and subtracted: the digits of the small ones are lost between."""

    def primal(x: Any, large: Any) -> Any:
        return (((x + large) - large) ** 2).sum(-1)

    def backward(x: Any, large: Any, dy: Any) -> Any:
        return 2 * ((x + large) - large) * dy[:, None], jnp.zeros_like(large)

    return ruled(primal, backward)


def summed(wide: bool) -> Any:
    """A weighted sum, added up one by one in bfloat16 or in float32."""

    def total(x: Any) -> Any:
        start = jnp.zeros((), jnp.float32 if wide else x.dtype)
        return jax.lax.scan(lambda s, v: ((s + v).astype(s.dtype), None), start, x)[0]

    def primal(x: Any, g: Any) -> Any:
        return total(x).astype(x.dtype) * g[0]

    def backward(x: Any, g: Any, dy: Any) -> Any:
        return jnp.full(x.shape, g[0] * dy, x.dtype), (total(x).astype(x.dtype) * dy)[None]

    return ruled(primal, backward)


SMALL = np.float32([[3e-3, -2e-3, 1e-2, 5e-3], [4e-3, 2e-3, -7e-3, 1e-3]])
MANY = jnp.asarray(np.abs(RNG.normal(size=999)) + 0.5, jnp.bfloat16)
ONE = jnp.ones(1, jnp.bfloat16)
LOSING: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "cancels near 0": (sinc, (SMALL,), "x"),
    "cancels in places": (sinc, (np.where(np.abs(X) < 0.5, 1e-3, X).astype(np.float32),), "x"),
    "shifted": (shifted, (X, np.float32([1e4])), "x"),
    "sums in bfloat16": (lambda: summed(False), (MANY, ONE), "g"),
}
KEEPING: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "series near 0": (good_sinc, (SMALL,)),
    "far from 0": (sinc, (np.sign(X) + X,)),
    "not cancelling": (squared_distance, (X + 3, X.T.reshape(5, 4) - 3)),
    "sums in float32": (lambda: summed(True), (MANY, ONE)),
}
SAYS = re.compile(
    r"(\w+): both lose ([\d,]+) units of rounding of (b?float\d+), the rule and autodiff, at "
    r"\[[\d, ]+\] = \S+ \((as given|near what was given|shuffled)\)"
)


@pytest.mark.parametrize("budget", ["fast", "default"])
@pytest.mark.parametrize("name", LOSING)
def test_what_both_lose_is_a_note_with_a_number(name: str, budget: Any) -> None:
    make, args, leaf = LOSING[name]
    report = fbp.check(make(), *args, budget=budget)
    assert report.ok, str(report)
    (found,) = filter(None, map(SAYS.fullmatch, report.notes))
    assert found[1] == leaf
    # The smallest of both is what is said.
    row = {row.path: row for row in report.leaves}[leaf]
    assert 10 < float(found[2].replace(",", "")) <= 1.01 * min(row.units, row.control)
    strict = fbp.check(make(), *args, budget=budget, strict=True)
    assert strict.verdict == "PRECISION", str(strict)
    assert {r.path: r.verdict for r in strict.leaves}[leaf] == "PRECISION"
    assert "both lose" in strict.line()


@pytest.mark.parametrize("name", KEEPING)
def test_what_keeps_its_digits_needs_no_remark(name: str) -> None:
    make, args = KEEPING[name]
    for seed in range(3):
        report = fbp.check(make(), *args, strict=True, seed=seed, budget="fast")
        assert report.verdict == "OK", str(report)
        assert "both lose" not in str(report)


def test_a_declared_accuracy_covers_it() -> None:
    assert "both lose" in str(fbp.check(sinc(), SMALL, budget="fast"))
    report = fbp.check(sinc(), SMALL, budget="fast", accuracy=0.5, strict=True)
    assert report.verdict == "OK", str(report)


def test_float64_has_digits_enough() -> None:
    with jax.enable_x64(True):
        report = fbp.check(sinc(), SMALL.astype(np.float64), budget="fast", strict=True)
    assert report.verdict == "OK", str(report)


def test_the_bound_is_a_third_of_the_digits_and_an_exponential_at_least() -> None:
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        unit = float(jnp.finfo(dtype).eps)
        assert absolute_allowed(unit) >= unit ** (2 / 3)
        assert absolute_allowed(unit) / unit >= (64 if dtype == jnp.float32 else 16)
        assert absolute_allowed(unit) < 0.2
