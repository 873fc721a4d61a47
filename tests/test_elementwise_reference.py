"""Activations and elementwise losses in float64 beside 50 digits, into the tails."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from cases import ACTIVATIONS

import fbp

mp = mpmath
EPS = 2.0**-52
TINY = float(np.finfo(np.float64).tiny)
MAX = float(np.finfo(np.float64).max)

MAGNITUDES = [
    *(
        1e-300,
        1e-20,
        1e-8,
        1e-3,
        0.1,
        0.5,
        0.7,
        1.0,
        1.3,
        2.0,
        3.0,
        5.0,
        6.0,
        8.0,
        10.0,
        15.0,
        20.0,
    ),
    *(25.0, 30.0, 36.0, 37.5, 38.5, 39.0, 41.0, 50.0, 88.0, 100.0, 300.0, 700.0, 708.0, 709.5),
    *(745.0, 1e3, 1e4, 1e10, 1e30, 1e150, 1e300, MAX),
]
GRID = np.asarray([-m for m in reversed(MAGNITUDES)] + MAGNITUDES)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


def tanh_argument(x: Any) -> Any:
    return mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def gelu_tanh(x: Any) -> Any:
    return x * sigmoid(2 * tanh_argument(x))


def gelu_tanh_slope(x: Any) -> Any:
    u, du = tanh_argument(x), mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2)
    return sigmoid(2 * u) + x * 2 * du * sigmoid(2 * u) * sigmoid(-2 * u)


def density(x: Any) -> Any:
    return mp.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi)


def normal_cdf(x: Any) -> Any:
    # Beyond 1e4 mpmath's erfc overflows; the tail there is exp(-5e7).
    return mp.erfc(-max(min(x, mp.mpf(1e4)), mp.mpf(-1e4)) / mp.sqrt(2)) / 2


def softplus(x: Any) -> Any:
    return max(x, mp.mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def tanh_slope(x: Any) -> Any:
    return 4 * mp.exp(-2 * abs(x)) / (1 + mp.exp(-2 * abs(x))) ** 2


# Each function, its derivative, and how many ulp (2^-52 of the value) either may be off.
#
# exp, log1p and tanh of XLA on CPU are good to a few ulp; what follows adds a rounding an
# operation. Where the derivative is a sum of two terms of opposite sign (silu and gelu for x < 0)
# it has a zero, and near it the error is that of the terms. It is measured, for those, in units of
# |s| + |x s'|, the terms' size, on the whole line: `terms`.
#
# exp magnifies the rounding of its own argument: exp(-x^2/2) at |x| = 38 by 38^2 / 2 = 722 eps of
# half an ulp, sigmoid(2u) at the ends of its range by 708 of a few. Those bounds carry a term for
# it, the condition of the function at x, in `condition`.
SIMPLE = 8


def none(x: Any) -> float:
    return 0.0


REFERENCE: dict[str, tuple[Callable, Callable, Callable]] = {
    "relu": (lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(x > 0), none),
    "leaky_relu": (
        lambda x: x if x >= 0 else mp.mpf(0.01) * x,
        lambda x: mp.mpf(1) if x >= 0 else mp.mpf(0.01),
        none,
    ),
    "tanh": (mp.tanh, tanh_slope, none),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x), none),
    "softplus": (softplus, sigmoid, none),
    "silu": (
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        none,
    ),
    # The argument of the exponential, 2u or x^2/2, has 4 roundings before it is exponentiated.
    "gelu_tanh": (gelu_tanh, gelu_tanh_slope, lambda x: 4 * abs(2 * tanh_argument(x))),
    "gelu_erf": (
        lambda x: x * normal_cdf(x),
        lambda x: normal_cdf(x) + x * density(x),
        lambda x: 4 * x**2,
    ),
}


def terms(name: str, x: Any) -> Any:
    """The size of what the derivative is a sum of; None where it is a product."""
    if name == "tanh":
        # 1 - y^2 from a y rounded to within eps of +-1: what is left in the tails is within an eps
        # of 1, not of itself.
        return mp.mpf(1)
    if name == "silu":
        return sigmoid(x) + abs(x) * sigmoid(x) * sigmoid(-x)
    if name == "gelu_erf":
        return normal_cdf(x) + abs(x) * density(x)
    if name == "gelu_tanh":
        s = sigmoid(2 * tanh_argument(x))
        return s + abs(gelu_tanh_slope(x) - s)
    return None


def ulps(got: Any, want: Any, scale: Any, x: float = 1.0) -> float:
    """The error in units of eps * scale.

    XLA on CPU flushes what is below the smallest normal number to 0; x times it is 0 as well.
    """
    error = abs(mp.mpf(float(got)) - want)
    if error <= 4 * TINY * max(1, min(abs(x), 1e4)):
        return 0.0
    return float(error / (EPS * abs(scale))) if scale else float("inf")


def limit(condition: Any) -> float:
    # Where the condition is beyond 2000 the value is flushed to 0 or is its limit.
    return SIMPLE + min(float(condition), 8000.0)


@pytest.mark.parametrize("name", REFERENCE)
def test_activations(name: str, x64: None) -> None:
    value, slope, condition = REFERENCE[name]
    layer, x = ACTIVATIONS[name], jnp.asarray(GRID)
    y, _ = jax.jit(layer.forward)((), x)
    _, dx = jax.jit(layer.backward)((), x, (), jnp.ones_like(x))
    wrong = []
    with mp.workdps(50):
        for x_i, y_i, dx_i in zip(GRID, np.asarray(y), np.asarray(dx), strict=True):
            v = mp.mpf(float(x_i))
            allowed = limit(condition(v))
            want, dwant = value(v), slope(v)
            found = ulps(y_i, want, want, x_i)
            if not found <= allowed:
                wrong.append(f"y({x_i}) = {y_i} by {found:.1f} ulp of {allowed:.0f}")
            found = ulps(dx_i, dwant, terms(name, v) or dwant, x_i)
            if not found <= allowed:
                wrong.append(f"dy/dx({x_i}) = {dx_i} by {found:.1f} ulp of {allowed:.0f}")
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("sigmoid", 1 / 4, 0), ("silu", 1 / 2, 1 / 2), ("gelu_tanh", 1 / 2, (2 / np.pi) ** 0.5)],
)
def test_second_derivatives_where_sigmoid_changes_its_formula(
    name: str, first: float, second: float, x64: None
) -> None:
    """s'' = 0 at 0; (x s)'' = 2 s' = 1/2; and of gelu 2 s'(0) 2 u'(0) = sqrt(2 / pi)."""
    layer, x = ACTIVATIONS[name], jnp.zeros(1)
    slope, curvature = jax.jvp(
        lambda x: layer.backward((), x, (), jnp.ones(1))[1], (x,), (jnp.ones(1),)
    )
    np.testing.assert_allclose(slope, first, rtol=1e-15)
    np.testing.assert_allclose(curvature, second, rtol=1e-15, atol=1e-16)


ERRORS = [-1e100, -1e4, -3.0, -1.5, -1.0, -0.3, -1e-9, 0.0, 1e-150, 1e-9, 0.3, 1.0, 1.5, 3.0, 1e4]


def huber(delta: float) -> tuple[Any, Any]:
    def value(y: Any, t: Any) -> Any:
        e = abs(y - t)
        return e**2 / 2 if e <= delta else delta * (e - mp.mpf(delta) / 2)

    return value, lambda y, t: max(-delta, min(delta, y - t))


# y - target is rounded once (exactly, for what is drawn here); each loss is a few operations.
LOSSES = {
    "mse": (fbp.MeanSquaredError(), lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t)),
    "mae": (fbp.MeanAbsoluteError(), lambda y, t: abs(y - t), lambda y, t: mp.sign(y - t)),
    "huber": (fbp.Huber(), *huber(1.0)),
    "huber_wide": (fbp.Huber(2.5), *huber(2.5)),
    # The slope of a kink, at y = target, is the mean of both sides'.
    "quantile": (
        fbp.Quantile(0.25),
        lambda y, t: max((t - y) / 4, (y - t) * 3 / 4),
        lambda y, t: mp.mpf(1) / 4 + mp.sign(y - t) / 2,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_regression_losses(name: str, x64: None) -> None:
    loss, value, slope = LOSSES[name]
    f = jax.jit(lambda y, target: loss.value_and_grad((), y, target))
    with mp.workdps(50):
        for y in ERRORS:
            for target in (0.0, 0.25):
                got, _, dy = f(jnp.asarray(y), jnp.asarray(target))
                rounded = mp.mpf(y - target)
                want, dwant = value(rounded, 0), slope(rounded, 0)
                assert ulps(got, want, want) <= 4, (y, target)
                assert ulps(dy, dwant, dwant) <= 4, (y, target)


def test_sigmoid_cross_entropy(x64: None) -> None:
    loss = fbp.SigmoidCrossEntropy()
    f = jax.jit(lambda y, target: loss.value_and_grad((), y, target))
    with mp.workdps(50):
        for y in GRID[np.abs(GRID) < 1e300]:
            for target in (0.0, 0.25, 1.0):
                got, _, dy = f(jnp.asarray(y), jnp.asarray(target))
                v, t = mp.mpf(float(y)), mp.mpf(target)
                with mp.workdps(400):
                    want = max(v, mp.mpf(0)) - t * v + mp.log1p(mp.exp(-abs(v)))
                # exp(-|y|) magnifies nothing: its argument is exact. dy = s - t cancels: in units
                # of its terms.
                assert ulps(got, want, want) <= SIMPLE, (y, target)
                assert ulps(dy, sigmoid(v) - t, sigmoid(v) + t) <= SIMPLE, (y, target)
