"""Normalisation over the batch, of a weight, and of a vector's length."""

import jax.numpy as jnp
from jax import lax

from planted._bug import Family, normal, normals, rule, sizes

EPS = 1e-5


def batch_norm(x, gamma, beta):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, over the first axis."""
    centred = x - x.mean(0)
    return gamma * (centred * lax.rsqrt((centred**2).mean(0) + EPS)) + beta


def batch_norm_rule(bug=""):
    def backward(x, gamma, beta, dy):
        n = x.shape[0]
        var = x.var(0)
        rstd = lax.rsqrt(var + EPS)
        x_hat = (x - x.mean(0)) * rstd
        dgamma, dbeta = (dy * x_hat).sum(0), dy.sum(0)
        if bug == "n_minus_one":
            rstd = lax.rsqrt(var * n / (n - 1) + EPS)
            x_hat = (x - x.mean(0)) * rstd
        mean_term, var_term = dbeta / n, x_hat * dgamma / n
        if bug == "statistics_constant":
            mean_term = var_term = jnp.zeros_like(x)
        if bug == "mean_term_dropped":
            mean_term = jnp.zeros_like(x)
        if bug == "var_term_dropped":
            var_term = jnp.zeros_like(x)
        dx = gamma * rstd * (dy - mean_term - var_term)
        if bug == "dgamma_times_gamma":
            dgamma = dgamma * gamma
        return dx, dgamma, dbeta

    return rule(batch_norm, backward)


BATCH = Family(
    "batch_norm",
    batch_norm,
    batch_norm_rule,
    normals(((7, 5), (5,), (5,)), ((64, 128), (128,), (128,))),
)
BATCH_BUGS = [
    BATCH.bug(
        "statistics_constant",
        "x",
        ("term:drop", "constant", "along:x"),
        "dx takes mean and variance for constants.",
    ),
    BATCH.bug("mean_term_dropped", "x", ("constant", "term:drop"), "dx lacks the mean of dy."),
    BATCH.bug("var_term_dropped", "x", ("along:x", "term:drop"), "dx lacks the variance's term."),
    BATCH.bug("n_minus_one", "x", ("term:scale", "factor", "row_scale"), "dx uses n - 1."),
    BATCH.bug(
        "dgamma_times_gamma", "gamma", ("row_scale", "along", "term"), "dgamma has gamma once more."
    ),
]


def weight_norm(v, g):
    """w = g v / |v|, each row by itself."""
    return g[:, None] * v / jnp.sqrt((v**2).sum(1, keepdims=True))


def weight_norm_rule(bug=""):
    def backward(v, g, dw):
        norm = jnp.sqrt((v**2).sum(1, keepdims=True))
        u = v / norm
        dg = (dw * u).sum(1)
        dv = g[:, None] / norm * (dw - u * dg[:, None])
        if bug == "direction_term_dropped":
            dv = g[:, None] / norm * dw
        if bug == "norm_missing":
            dv = dv * norm
        if bug == "dg_unnormalised":
            dg = (dw * v).sum(1)
        return dv, dg

    return rule(weight_norm, backward)


WEIGHT = Family(
    "weight_norm", weight_norm, weight_norm_rule, normals(((5, 7), (5,)), ((64, 128), (64,)))
)
WEIGHT_BUGS = [
    WEIGHT.bug(
        "direction_term_dropped", "v", ("along:v", "term:drop"), "dv lacks the projection on v."
    ),
    WEIGHT.bug("norm_missing", "v", ("row_scale", "term"), "dv lacks 1 / |v|."),
    WEIGHT.bug("dg_unnormalised", "g", ("row_scale", "term"), "dg lacks 1 / |v|."),
]


def l2_normalize(x):
    """y = x / |x|, a row at a time; a zero row stays zero."""
    square = (x**2).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def l2_normalize_rule(bug=""):
    def backward(x, dy):
        square = (x**2).sum(-1, keepdims=True)
        norm = jnp.sqrt(square if bug == "nan_at_zero" else jnp.where(square > 0, square, 1))
        y = x / norm
        if bug == "projection_dropped":
            return (dy / norm,)
        if bug == "projection_unnormalised":
            return ((dy - x * (dy * x).sum(-1, keepdims=True)) / norm,)
        return ((dy - y * (dy * y).sum(-1, keepdims=True)) / norm,)

    return rule(l2_normalize, backward)


def _with_zero_row(rng, size):
    x = normal(rng, *sizes(size, (5, 7), (64, 128)))
    x[2] = 0
    return (x,)


L2 = Family("l2_normalize", l2_normalize, l2_normalize_rule, normals(((5, 7),), ((64, 128),)))
L2_BUGS = [
    L2.bug(
        "nan_at_zero",
        "x",
        ("nonfinite",),
        "dx is NaN in a row of zeros.",
        "RANGE",
        "WRONG",
        at=_with_zero_row,
    ),
    L2.bug("projection_dropped", "x", ("along:x|y", "term:drop"), "dx lacks the projection on y."),
    L2.bug(
        "projection_unnormalised",
        "x",
        ("along:x|y", "term"),
        "The projection is on x and not on x / |x|.",
    ),
]


def cosine(a, b):
    """The cosine of the angle between two rows."""
    return (a * b).sum(1) / (jnp.sqrt((a**2).sum(1)) * jnp.sqrt((b**2).sum(1)))


def cosine_rule(bug=""):
    def backward(a, b, dy):
        na, nb = jnp.sqrt((a**2).sum(1, keepdims=True)), jnp.sqrt((b**2).sum(1, keepdims=True))
        dy, cos = dy[:, None], (a * b).sum(1, keepdims=True) / (na * nb)
        da = dy * (b / nb - cos * a / na) / na
        db = dy * (a / na - cos * b / nb) / nb
        if bug == "projection_dropped":
            da = dy * b / (na * nb)
        if bug == "b_constant":
            db = jnp.zeros_like(b)
        return da, db

    return rule(cosine, backward)


COSINE = Family("cosine", cosine, cosine_rule, normals(((5, 7), (5, 7)), ((64, 128), (64, 128))))
COSINE_BUGS = [
    COSINE.bug("projection_dropped", "a", ("along:a", "term:drop"), "da lacks its projection."),
    COSINE.bug("b_constant", "b", ("zero",), "db is zero."),
]

FAMILIES = [BATCH, WEIGHT, L2, COSINE]
BUGS = BATCH_BUGS + WEIGHT_BUGS + L2_BUGS + COSINE_BUGS
