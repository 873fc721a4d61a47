"""Softmax and its kin: log-softmax, log-sum-exp, a softmax with temperature."""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes

ROWS = normals(((5, 7),), ((64, 128),), 2.0)


def softmax(x):
    """y = e^x / sum e^x, over the last axis."""
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def softmax_rule(bug=""):
    def backward(x, dy):
        y = softmax(x)
        dx = y * (dy - (y * dy).sum(-1, keepdims=True))
        if bug == "diagonal_only":
            dx = y * (1 - y) * dy
        if bug == "sum_on_wrong_axis":
            dx = y * (dy - (y * dy).sum(0, keepdims=True))
        if bug == "no_subtraction":
            dx = y * dy
        if bug == "sum_unweighted":
            dx = y * (dy - dy.sum(-1, keepdims=True))
        if bug == "mean_for_sum":
            dx = y * (dy - (y * dy).mean(-1, keepdims=True))
        if bug == "subtraction_outside":
            dx = y * dy - (y * dy).sum(-1, keepdims=True)
        return (dx,)

    return rule(softmax, backward)


SOFTMAX = Family("softmax", softmax, softmax_rule, ROWS)
SOFTMAX_BUGS = [
    SOFTMAX.bug("diagonal_only", "x", ("term", "slope"), "Only the Jacobian's diagonal is used."),
    SOFTMAX.bug(
        "sum_on_wrong_axis", "x", ("term:reduce_sum|axis", "along:y"), "The sum runs over the rows."
    ),
    SOFTMAX.bug(
        "no_subtraction", "x", ("term:drop", "along:y"), "dx lacks the subtracted sum of y dy."
    ),
    SOFTMAX.bug("sum_unweighted", "x", ("along:y", "term"), "The sum is of dy, not of y dy."),
    SOFTMAX.bug(
        "mean_for_sum", "x", ("along:y", "term:scale|reduce_sum"), "The sum of y dy is a mean."
    ),
    SOFTMAX.bug(
        "subtraction_outside",
        "x",
        ("constant", "term"),
        "The sum is subtracted without its factor y.",
    ),
]


def log_softmax(x):
    """y = x - log sum e^x, over the last axis."""
    x = x - jax.lax.stop_gradient(x.max(-1, keepdims=True))
    return x - jnp.log(jnp.exp(x).sum(-1, keepdims=True))


def log_softmax_rule(bug=""):
    def backward(x, dy):
        p = softmax(x)
        total = dy.sum(-1, keepdims=True)
        if bug == "sum_of_dy_missing":
            total = 1
        if bug == "as_softmax":
            return (p * (dy - (p * dy).sum(-1, keepdims=True)),)
        if bug == "probability_detached":
            return (dy,)
        return (dy - p * total,)

    return rule(log_softmax, backward)


LOG_SOFTMAX = Family("log_softmax", log_softmax, log_softmax_rule, ROWS)
LOG_SOFTMAX_BUGS = [
    LOG_SOFTMAX.bug(
        "sum_of_dy_missing",
        "x",
        ("term", "cotangent", "along:softmax|y|p"),
        "dx subtracts p and not p sum(dy).",
    ),
    LOG_SOFTMAX.bug("as_softmax", "x", ("term", "along", "slope"), "dx is that of softmax."),
    LOG_SOFTMAX.bug(
        "probability_detached", "x", ("term:drop", "along"), "dx lacks the normaliser's share."
    ),
]


def logsumexp(x):
    """y = log sum e^x, over the last axis."""
    top = jax.lax.stop_gradient(x.max(-1, keepdims=True))
    return jnp.log(jnp.exp(x - top).sum(-1)) + top[..., 0]


def logsumexp_rule(bug=""):
    def backward(x, dy):
        p = softmax(x)
        dy = dy[:, None]
        if bug == "overflow":
            e = jnp.exp(x)
            p = e / e.sum(-1, keepdims=True)
        if bug == "keepdims_missing":
            dy = dy.T
        if bug == "as_max":
            p = (x == x.max(-1, keepdims=True)).astype(x.dtype)
        return (p * dy,)

    return rule(logsumexp, backward)


def _large(rng, size):
    return (normal(rng, *sizes(size, (5, 7), (64, 128))) + np.float32(1000),)


LOGSUMEXP = Family("logsumexp", logsumexp, logsumexp_rule, ROWS)
LOGSUMEXP_BUGS = [
    LOGSUMEXP.bug(
        "overflow",
        "x",
        ("nonfinite",),
        "dx overflows for large x: the maximum is not subtracted.",
        "RANGE",
        "WRONG",
        at=_large,
    ),
    LOGSUMEXP.bug(
        "keepdims_missing",
        "x",
        ("cotangent", "term", "row_scale"),
        "dy is spread along the wrong axis.",
        args=normals(((7, 7),), ((64, 64),), 2.0),
    ),
    LOGSUMEXP.bug("as_max", "x", ("term", "slope", "subset"), "dx is that of the maximum."),
]


def tempered(x, temperature):
    """y = softmax(x / temperature)."""
    return softmax(x / temperature)


def tempered_rule(bug=""):
    def backward(x, temperature, dy):
        y = softmax(x / temperature)
        dz = y * (dy - (y * dy).sum(-1, keepdims=True))
        dx = dz if bug == "temperature_missing" else dz / temperature
        dtemperature = -(dz * x).sum() / temperature**2
        if bug == "dtemperature_sign":
            dtemperature = -dtemperature
        return dx, dtemperature

    return rule(tempered, backward)


def _tempered_args(rng, size):
    return normal(rng, *sizes(size, (5, 7), (64, 128))), np.float32(0.7)


TEMPERED = Family("tempered", tempered, tempered_rule, _tempered_args)
TEMPERED_BUGS = [
    TEMPERED.bug("temperature_missing", "x", ("factor", "term"), "dx lacks 1 / temperature."),
    TEMPERED.bug("dtemperature_sign", "temperature", ("sign",), "dtemperature is negated."),
]

FAMILIES = [SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, TEMPERED]
BUGS = SOFTMAX_BUGS + LOG_SOFTMAX_BUGS + LOGSUMEXP_BUGS + TEMPERED_BUGS
