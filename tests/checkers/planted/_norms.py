"""Normalisation over the features: layer norm, RMS norm, group norm."""

import jax.numpy as jnp
from jax import lax

from planted._bug import Family, normals, rule

EPS = 1e-5


def layer_norm(x, gamma, beta):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    var = (centred**2).mean(-1, keepdims=True)
    return gamma * (centred * lax.rsqrt(var + EPS)) + beta


def layer_norm_rule(bug=""):
    def backward(x, gamma, beta, dy):
        n = x.shape[-1]
        mu = x.mean(-1, keepdims=True)
        var = ((x - mu) ** 2).mean(-1, keepdims=True)
        rstd = 1 / jnp.sqrt(var + EPS)
        x_hat = (x - mu) * rstd
        dgamma, dbeta = (dy * x_hat).sum(0), dy.sum(0)
        if bug == "dgamma_uses_x":
            dgamma = (dy * x).sum(0)
        if bug == "dbeta_scaled":
            dbeta = dbeta / x.shape[0]
        if bug == "dgamma_and_dbeta_swapped":
            dgamma, dbeta = dbeta, dgamma

        if bug == "n_minus_one":
            rstd = 1 / jnp.sqrt(var * n / (n - 1) + EPS)
            x_hat = (x - mu) * rstd
        if bug == "eps_missing":
            rstd = 1 / jnp.sqrt(var)
            x_hat = (x - mu) * rstd
        dx_hat = dy if bug == "gamma_missing" else dy * gamma
        mean_term = dx_hat.mean(-1, keepdims=True)
        var_term = x_hat * (dx_hat * x_hat).mean(-1, keepdims=True)
        dx = rstd * (dx_hat - mean_term - var_term)
        if bug == "mean_term_dropped":
            dx = rstd * (dx_hat - var_term)
        if bug == "variance_term_dropped":
            dx = rstd * (dx_hat - mean_term)
        if bug == "variance_term_added":
            dx = rstd * (dx_hat - mean_term + var_term)
        if bug == "statistics_constant":
            dx = rstd * dx_hat
        if bug == "rstd_missing":
            dx = dx / rstd
        if bug == "last_row_skipped":
            dx = dx.at[-1].set(0)
        if bug == "last_column_skipped":
            dx = dx.at[:, -1].set(0)
        return dx, dgamma, dbeta

    return rule(layer_norm, backward)


LAYER = Family(
    "layer_norm",
    layer_norm,
    layer_norm_rule,
    normals(((5, 7), (7,), (7,)), ((64, 256), (256,), (256,))),
)
LAYER_BUGS = [
    LAYER.bug(
        "mean_term_dropped", "x", ("constant", "term:drop"), "dx lacks the mean of dy gamma."
    ),
    LAYER.bug(
        "variance_term_dropped",
        "x",
        ("along:x", "term:drop"),
        "dx lacks the projection on x_hat.",
    ),
    LAYER.bug(
        "variance_term_added",
        "x",
        ("along:x", "term:negate"),
        "The projection on x_hat has the wrong sign.",
    ),
    LAYER.bug(
        "statistics_constant",
        "x",
        ("term:drop", "constant", "along:x"),
        "dx takes mean and variance for constants.",
    ),
    LAYER.bug("n_minus_one", "x", ("term:scale", "factor", "row_scale"), "dx uses n - 1."),
    LAYER.bug("gamma_missing", "x", ("term:gamma", "input:gamma", "cotangent"), "dx lacks gamma."),
    LAYER.bug("rstd_missing", "x", ("row_scale", "term"), "dx lacks 1 / std."),
    LAYER.bug(
        "eps_missing",
        "x",
        ("term:add|eps|1e-05", "row_scale", "nonfinite"),
        "dx computes 1 / std without eps.",
    ),
    LAYER.bug(
        "last_row_skipped",
        "x",
        (
            "cotangent:last row.* never",
            "subset:last",
        ),
        "dx is zero in the last row.",
    ),
    LAYER.bug("last_column_skipped", "x", ("subset:last",), "dx is zero in the last column."),
    LAYER.bug("dgamma_uses_x", "gamma", ("term", "along", "input"), "dgamma takes x for x_hat."),
    LAYER.bug("dbeta_scaled", "beta", ("factor:1/n|1/5|1/64",), "dbeta is a mean over the rows."),
    LAYER.bug("dgamma_and_dbeta_swapped", "gamma beta", ("swap",), "dgamma and dbeta are swapped."),
]


def rms_norm(x, gamma):
    """y = (1 + gamma) x / sqrt(mean(x^2) + eps)."""
    return (1 + gamma) * (x * lax.rsqrt((x**2).mean(-1, keepdims=True) + EPS))


def rms_norm_rule(bug=""):
    def backward(x, gamma, dy):
        n = 1 if bug == "no_1_over_n" else x.shape[-1]
        rstd = lax.rsqrt((x**2).mean(-1, keepdims=True) + EPS)
        gain = gamma if bug == "one_plus_missing" else 1 + gamma
        power = 2 if bug == "rstd_squared" else 3
        projection = x * rstd**power * ((dy * gain * x).sum(-1, keepdims=True) / n)
        if bug == "x_term_dropped":
            projection = jnp.zeros_like(x)
        dx = dy * gain * rstd - projection

        dgamma = (dy * x * rstd).sum(0)
        if bug == "dgamma_in_bf16":
            dgamma = (dy * x * rstd).astype(jnp.bfloat16).sum(0, dtype=jnp.bfloat16)
        if bug == "dgamma_without_rstd":
            dgamma = (dy * x).sum(0)
        if bug == "dgamma_last_block_only":
            dgamma = (dy * x * rstd)[x.shape[0] // 4 * 4 :].sum(0)
        return dx, dgamma

    return rule(rms_norm, backward)


RMS = Family("rms_norm", rms_norm, rms_norm_rule, normals(((5, 7), (7,)), ((63, 256), (256,))))
RMS_BUGS = [
    RMS.bug("no_1_over_n", "x", ("term:scale", "along:x"), "The projection on x lacks its 1/n."),
    RMS.bug("x_term_dropped", "x", ("along:x", "term:drop"), "dx lacks the projection on x."),
    RMS.bug("rstd_squared", "x", ("along:x", "term"), "The projection has rstd^2 for rstd^3."),
    RMS.bug(
        "one_plus_missing",
        "x",
        ("term:drop", "input:gamma"),
        "dx multiplies by gamma, not by 1 + gamma.",
    ),
    RMS.bug(
        "dgamma_in_bf16", "gamma", ("precision",), "dgamma is added up in bfloat16.", "PRECISION"
    ),
    RMS.bug("dgamma_without_rstd", "gamma", ("term:drop|rsqrt", "input"), "dgamma lacks rstd."),
    RMS.bug(
        "dgamma_last_block_only",
        "gamma",
        ("cotangent:last|row|subset", "term"),
        "dgamma keeps the last block of rows only: set for add.",
    ),
]


def group_norm(x, gamma, beta):
    """Normalised over the rows and over groups of two channels; x is (batch, rows, channels)."""
    z = _groups(x, 2)
    centred = z - z.mean((1, 3), keepdims=True)
    z = centred * lax.rsqrt((centred**2).mean((1, 3), keepdims=True) + EPS)
    return z.reshape(x.shape) * gamma + beta


def _groups(x, width):
    return x.reshape(*x.shape[:2], -1, width)


def group_norm_rule(bug=""):
    def backward(x, gamma, beta, dy):
        z, width = _groups(x, 2), x.shape[2] if bug == "one_group" else 2
        rstd = lax.rsqrt(z.var((1, 3), keepdims=True) + EPS)
        x_hat = ((z - z.mean((1, 3), keepdims=True)) * rstd).reshape(x.shape)
        dx_hat, x_hat_groups = _groups(dy * gamma, width), _groups(x_hat, width)
        n = x.shape[1] if bug == "group_size_forgotten" else x.shape[1] * width
        mean_term = dx_hat.sum((1, 3), keepdims=True) / n
        var_term = x_hat_groups * (dx_hat * x_hat_groups).sum((1, 3), keepdims=True) / n
        dx = _groups((dx_hat - mean_term - var_term).reshape(x.shape), 2) * rstd
        dgamma = (dy * x_hat).sum((0, 1))
        if bug == "dgamma_first_example":
            dgamma = (dy * x_hat)[0].sum(0)
        return dx.reshape(x.shape), dgamma, dy.sum((0, 1))

    return rule(group_norm, backward)


GROUP = Family(
    "group_norm",
    group_norm,
    group_norm_rule,
    normals(((3, 5, 14), (14,), (14,)), ((4, 64, 32), (32,), (32,))),
)
GROUP_BUGS = [
    GROUP.bug(
        "one_group", "x", ("term", "constant", "along"), "The means of dx run over all the groups."
    ),
    GROUP.bug(
        "group_size_forgotten",
        "x",
        ("term:scale", "factor", "constant", "along"),
        "The means of dx divide by the rows and forget the group's channels.",
    ),
    GROUP.bug(
        "dgamma_first_example",
        "gamma",
        ("cotangent:first|row", "term"),
        "dgamma takes the first example only.",
    ),
]

FAMILIES = [LAYER, RMS, GROUP]
BUGS = LAYER_BUGS + RMS_BUGS + GROUP_BUGS
