"""What may be off in a right rule: functions that approximate, and loops that stop early."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.verify.program._altered import refined
from fbp.verify.program._program import evaluate, trace

X = np.float32([0.3, -1.2, 0.8])


def vjp_rule(f: Any, bwd: Any) -> Any:
    """f with a backward written by hand; its residuals are its arguments."""
    rule = jax.custom_vjp(f)
    rule.defvjp(lambda *args: (f(*args), args), lambda args, dy: bwd(*args, dy))
    return rule


@pytest.mark.parametrize(("off", "wanted"), [(0.0, "OK"), (4e-6, "WRONG")])
@pytest.mark.parametrize("is_smooth", [False, True])
def test_an_error_of_the_function_with_a_slope(off: float, wanted: str, is_smooth: bool) -> None:
    """A function right to float32's digits, whose error has a slope of 2e-6."""

    def approximated(x: Any) -> Any:
        return jnp.sin(x) + (0.0 if is_smooth else 4e-9 * jnp.sin(500 * x))

    rule = vjp_rule(approximated, lambda x, dy: (dy * jnp.cos(x) * (1 + off),))
    assert fbp.check(rule, X).verdict == (wanted if is_smooth else "OK")
    assert fbp.check(vjp_rule(approximated, lambda x, dy: (dy * jnp.cos(x) * 1.001,)), X).hints


def descent(decay: Any, stop: float = 1e-5) -> Any:
    """The minimum of a quadratic by steps with momentum, counted, of a size that changes."""
    a = jnp.asarray([[2.0, 0.3], [0.3, 1.0]])

    def gradient(w: Any) -> Any:
        return a @ w + decay * w - jnp.asarray([1.0, -0.5])

    def step(carry: Any) -> Any:
        w, before, count, size, _ = carry
        moved = w + 0.3 * (w - before)
        new = moved - size * gradient(moved)
        return new, w, count + 1, 0.4 - size, jnp.abs(gradient(new)).max()

    start = jnp.zeros(2), jnp.zeros(2), 0.0 * decay, 0.1 + 0.0 * decay, 1.0 + 0.0 * decay
    return jax.lax.while_loop(lambda carry: carry[4] > stop, step, start)[0]


@pytest.mark.parametrize(("factor", "wanted"), [(1.0, "OK"), (1.01, "WRONG")])
def test_a_descent_that_stops_early(factor: float, wanted: str) -> None:
    """Its derivative lags behind its value: the rule, by the implicit theorem, is the better."""

    def bwd(decay: Any, dy: Any) -> Any:
        a = jnp.asarray([[2.0, 0.3], [0.3, 1.0]]) + decay * jnp.eye(2)
        return (-factor * dy @ jnp.linalg.solve(a, jnp.linalg.solve(a, jnp.asarray([1.0, -0.5]))),)

    assert fbp.check(vjp_rule(lambda decay: descent(decay), bwd), np.float32(0.5)).verdict == wanted


def test_loops_go_on_only_where_they_converge() -> None:
    def slope(f: Any) -> Any:
        return jax.jvp(f, (0.5,), (1.0,))[1]

    program = trace(descent, 0.5)
    exact = slope(lambda decay: descent(decay, 1e-12))
    lags = slope(lambda x: evaluate(program, x)[0])
    on = slope(lambda x: refined(program)(x)[0])
    assert jnp.abs(on - exact).max() < 0.1 * jnp.abs(lags - exact).max()
    # An integral over time does not converge: it stays as it is.
    grows = trace(lambda a: jax.lax.fori_loop(0, 20, lambda _, x: x + a * x, 1.0), 0.1)
    assert refined(grows)(0.1)[0] == evaluate(grows, 0.1)[0]
