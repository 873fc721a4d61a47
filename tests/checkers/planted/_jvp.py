"""Rules of the forward kind: functions with a `custom_jvp`, wrong in their tangents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from planted._bug import Family, normal, normals, sizes

ROWS = normals(((5, 7),), ((64, 128),))
PAIR = normals(((5, 7), (5, 7)), ((64, 128), (64, 128)))


def jvp_rule(primal: Callable, tangent: Callable) -> Callable:
    """`primal` with the rule `tangent(*args, *tangents)`."""
    f = jax.custom_jvp(primal)

    @f.defjvp
    def jvp(args, tangents):
        return primal(*args), tangent(*args, *tangents)

    return f


def silu(x):
    """y = x sigmoid(x)."""
    return x * sigmoid(x)


def silu_rule(bug=""):
    def tangent(x, xt):
        s = sigmoid(x)
        slope = s + x * s * (1 - s)
        if bug == "x_term_dropped":
            slope = s
        if bug == "one_minus_missing":
            slope = s + x * s
        return slope * xt

    return jvp_rule(silu, tangent)


SILU = Family("silu_jvp", silu, silu_rule, ROWS)
SILU_BUGS = [
    SILU.bug("x_term_dropped", "x", ("term:drop", "slope"), "The slope lacks x s (1 - s)."),
    SILU.bug("one_minus_missing", "x", ("term", "slope"), "The slope has x s for x s (1 - s)."),
]


def divide(a, b):
    """y = a / b."""
    return a / b


def divide_rule(bug=""):
    def tangent(a, b, at, bt):
        if bug == "db_sign":
            return at / b + bt * a / b**2
        if bug == "b_not_squared":
            return at / b - bt * a / b
        if bug == "b_constant":
            return at / b
        return at / b - bt * a / b**2

    return jvp_rule(divide, tangent)


def _away_from_zero(rng, size):
    shape = sizes(size, (5, 7), (64, 128))
    return normal(rng, *shape), rng.uniform(0.5, 2, shape).astype(np.float32)


DIVIDE = Family("divide_jvp", divide, divide_rule, _away_from_zero)
DIVIDE_BUGS = [
    DIVIDE.bug("db_sign", "b", ("sign",), "The tangent of b has the wrong sign."),
    DIVIDE.bug("b_not_squared", "b", ("term", "row_scale", "along"), "b's tangent has 1/b."),
    DIVIDE.bug("b_constant", "b", ("zero",), "b is taken for a constant."),
]


def matmul(a, b):
    """y = a b."""
    return a @ b


def matmul_rule(bug=""):
    def tangent(a, b, at, bt):
        if bug == "one_side":
            return at @ b
        if bug == "b_transposed":
            return at @ b.T + a @ bt
        if bug == "doubled":
            return at @ b + 2 * a @ bt
        return at @ b + a @ bt

    return jvp_rule(matmul, tangent)


MATMUL = Family("matmul_jvp", matmul, matmul_rule, normals(((5, 7), (7, 7)), ((64, 64), (64, 64))))
MATMUL_BUGS = [
    MATMUL.bug("one_side", "b", ("zero",), "The product rule has one term only."),
    MATMUL.bug("b_transposed", "a", ("term:transpose|dot_general", "input:b"), "b is transposed."),
    MATMUL.bug("doubled", "b", ("factor:2",), "b's tangent is doubled."),
]


def logaddexp(a, b):
    """y = log(e^a + e^b)."""
    return jnp.logaddexp(a, b)


def logaddexp_rule(bug=""):
    def tangent(a, b, at, bt):
        p = sigmoid(a - b)
        if bug == "swapped":
            p = 1 - p
        if bug == "overflow":
            p = jnp.exp(a) / (jnp.exp(a) + jnp.exp(b))
        if bug == "half_each":
            p = jnp.full_like(p, 0.5)
        return p * at + (1 - p) * bt

    return jvp_rule(logaddexp, tangent)


def _large(rng, size):
    a, b = PAIR(rng, size)
    return a + np.float32(1000), b + np.float32(1000)


LOGADDEXP = Family("logaddexp_jvp", logaddexp, logaddexp_rule, PAIR)
LOGADDEXP_BUGS = [
    LOGADDEXP.bug(
        "swapped", "a b", ("swap", "input", "term:negate", "slope"), "The weights are swapped."
    ),
    LOGADDEXP.bug(
        "overflow", "a b", ("nonfinite",), "inf / inf for large a, b.", "RANGE", "WRONG", at=_large
    ),
    LOGADDEXP.bug("half_each", "a b", ("slope", "term", "mask", "along"), "a, b weigh the same."),
]


def safe_sqrt(x):
    """y = sqrt(x) above 0, else 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def safe_sqrt_rule(bug=""):
    def tangent(x, xt):
        y = safe_sqrt(x)
        if bug == "infinite_at_zero":
            return xt / (2 * jnp.sqrt(jnp.maximum(x, 0)))
        slope = jnp.where(x > 0, 1 / (2 * jnp.where(x > 0, y, 1)), 0)
        if bug == "half_missing":
            slope = 2 * slope
        if bug == "inverse_missing":
            slope = y / 2
        return slope * xt

    return jvp_rule(safe_sqrt, tangent)


def _positive(rng, size):
    return (np.abs(*ROWS(rng, size)) + np.float32(0.1),)


def _with_zero(rng, size):
    (x,) = _positive(rng, size)
    x[1, 2] = 0
    return (x,)


SQRT = Family("safe_sqrt_jvp", safe_sqrt, safe_sqrt_rule, _positive)
SQRT_BUGS = [
    SQRT.bug(
        "infinite_at_zero", "x", ("nonfinite",), "1 / 0 at 0.", "RANGE", "WRONG", at=_with_zero
    ),
    SQRT.bug("half_missing", "x", ("factor:2",), "The slope lacks 1/2."),
    SQRT.bug("inverse_missing", "x", ("slope", "term", "along", "row_scale"), "It is y / 2."),
]


def standardize(x):
    """Each row less its mean, over its standard deviation."""
    centred = x - x.mean(1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)


def standardize_rule(bug=""):
    def tangent(x, xt):
        centred = x - x.mean(1, keepdims=True)
        std = jnp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        y = centred / std
        if bug != "mean_constant":
            xt = xt - xt.mean(1, keepdims=True)
        if bug == "std_constant":
            return xt / std
        return (xt - y * (y * xt).mean(1, keepdims=True)) / std

    return jvp_rule(standardize, tangent)


STANDARDIZE = Family("standardize_jvp", standardize, standardize_rule, ROWS)
STANDARDIZE_BUGS = [
    STANDARDIZE.bug("mean_constant", "x", ("constant", "term:drop"), "The mean is a constant."),
    STANDARDIZE.bug("std_constant", "x", ("along", "term:drop"), "The deviation is a constant."),
]

FAMILIES = [SILU, DIVIDE, MATMUL, LOGADDEXP, SQRT, STANDARDIZE]
BUGS = SILU_BUGS + DIVIDE_BUGS + MATMUL_BUGS + LOGADDEXP_BUGS + SQRT_BUGS + STANDARDIZE_BUGS
