"""Gradients that forget what they are divided by: sums of weights, partition functions, counts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import logsumexp

from planted._bug import Family, normal, normals, rule, sizes
from planted._jvp import jvp_rule


def weighted_mean(x, w):
    """The mean of the rows of x with the weights w."""
    return (w[:, None] * x).sum(0) / w.sum()


def weighted_mean_rule(bug=""):
    def backward(x, w, dy):
        n = w.sum()
        y = 0 if bug == "sum_is_constant" else weighted_mean(x, w)
        dw = ((x - y) * dy).sum(1)
        dx = w[:, None] * dy
        if bug == "count_for_sum":
            return dx / len(w), dw / n
        return dx if bug == "dx_not_divided" else dx / n, dw if bug == "dw_not_divided" else dw / n

    return rule(weighted_mean, backward)


def _weights(rng, size):
    n, d = sizes(size, (5, 7), (64, 128))
    return normal(rng, n, d), rng.uniform(0.2, 2, n).astype(np.float32)


WEIGHTED = Family("weighted_mean", weighted_mean, weighted_mean_rule, _weights)
WEIGHTED_BUGS = [
    WEIGHTED.bug("dx_not_divided", "x", ("term:div|drop", "factor:sum"), "dx lacks 1 / sum(w)."),
    WEIGHTED.bug("dw_not_divided", "w", ("term:div|drop", "factor:sum"), "dw lacks 1 / sum(w)."),
    WEIGHTED.bug(
        "sum_is_constant", "w", ("term:drop.*(sum|div)", "constant"), "The sum of w is a constant."
    ),
    WEIGHTED.bug("count_for_sum", "x", ("term:div|reduce_sum", "factor:sum"), "n stands for it."),
]


def attention_row(q, k, v):
    """The mean of the rows of v with the weights e^(k q)."""
    e = jnp.exp(k @ q)
    return e @ v / e.sum()


def attention_row_rule(bug=""):
    def backward(q, k, v, dy):
        e = jnp.exp(k @ q)
        p = e / e.sum()
        y = p @ v
        ds = p * (v @ dy - y @ dy)
        if bug == "ds_without_y":
            ds = p * (v @ dy)
        if bug == "ds_unnormalised":
            ds = e * (v @ dy - y @ dy)
        return k.T @ ds, jnp.outer(ds, q), jnp.outer(e if bug == "dv_unnormalised" else p, dy)

    return rule(attention_row, backward)


def _attention_row(rng, size):
    n, d = sizes(size, (6, 4), (64, 32))
    return (normal(rng, d, scale=0.5), *(normal(rng, n, d) for _ in range(2)))


ROW = Family("attention_row", attention_row, attention_row_rule, _attention_row)
ROW_BUGS = [
    ROW.bug("ds_without_y", "q k", ("term:drop",), "The sum of e is taken for a constant."),
    ROW.bug("ds_unnormalised", "q k", ("term:div|scale|drop", "factor:sum"), "e for p."),
    ROW.bug("dv_unnormalised", "v", ("term:div|scale|drop", "factor:sum"), "dv has e for p."),
]


def log_partition(x):
    """log of the sum of e^x, of each row."""
    return logsumexp(x, 1)


def log_partition_jvp_rule(bug=""):
    def tangent(x, xt):
        if bug == "not_divided":
            return (jnp.exp(x) * xt).sum(1)
        return (jax.nn.softmax(x, None if bug == "sum_of_the_batch" else 1) * xt).sum(1)

    return jvp_rule(log_partition, tangent)


PARTITION = Family(
    "log_partition_jvp", log_partition, log_partition_jvp_rule, normals(((5, 7),), ((64, 128),))
)
PARTITION_BUGS = [
    PARTITION.bug(
        "not_divided", "x", ("row_scale:exp", "term:log|div", "slope:exp"), "e^x stands for p."
    ),
    PARTITION.bug("sum_of_the_batch", "x", ("row_scale", "term:reduce_sum"), "Rows share a sum."),
]


def forward_algorithm(start, move, emit):
    """The log-likelihood of a hidden Markov model: logits of starts (S,), moves (S, S), (T, S)."""

    def step(alpha, e):
        return logsumexp(alpha[:, None] + jax.nn.log_softmax(move, 1), 0) + e, None

    alpha, _ = lax.scan(step, jax.nn.log_softmax(start) + emit[0], emit[1:])
    return logsumexp(alpha)


def forward_algorithm_rule(bug=""):
    def backward(start, move, emit, dy):
        logmove = jax.nn.log_softmax(move, 1)

        def forth(alpha, e):
            after = logsumexp(alpha[:, None] + logmove, 0) + e
            return after, after

        def back(beta, e):
            before = logsumexp(logmove + (beta + e)[None, :], 1)
            return before, before

        first = jax.nn.log_softmax(start) + emit[0]
        alphas = jnp.concatenate([first[None], lax.scan(forth, first, emit[1:])[1]])
        last = jnp.zeros_like(start)
        betas = jnp.concatenate([lax.scan(back, last, emit[1:], reverse=True)[1], last[None]])
        z = logsumexp(alphas[-1])
        gamma = jnp.exp(alphas + betas - z)
        pairs = alphas[:-1, :, None] + logmove + (betas[1:] + emit[1:])[:, None, :]
        xi = jnp.exp(pairs - z).sum(0)
        if bug == "not_over_z":
            gamma = jnp.exp(alphas + betas)
        if bug == "beta_missing":
            gamma = jax.nn.softmax(alphas, 1)
        if bug == "first_step_of_moves_missing":
            xi = jnp.exp(pairs - z)[1:].sum(0)
        dmove = xi - jnp.exp(logmove) * xi.sum(1, keepdims=True)
        if bug == "softmax_of_moves_missing":
            dmove = xi
        g = jnp.exp(alphas + betas - z)[0]
        dstart = g - jax.nn.softmax(start)
        return dy * dstart, dy * dmove, dy * gamma

    return rule(forward_algorithm, backward)


def _markov(rng, size):
    t, s = sizes(size, (5, 3), (20, 8))
    return normal(rng, s), normal(rng, s, s), normal(rng, t, s)


MARKOV = Family("forward_algorithm", forward_algorithm, forward_algorithm_rule, _markov)
MARKOV_BUGS = [
    MARKOV.bug(
        "not_over_z", "emit", ("row_scale:exp|y", "factor:exp|y", "term"), "Posteriors lack 1 / Z."
    ),
    MARKOV.bug("beta_missing", "emit", ("term:drop|scan", "subset:last"), "They lack beta."),
    MARKOV.bug(
        "softmax_of_moves_missing",
        "move",
        ("term:drop", "along:softmax", "constant"),
        "Moves are taken for log-probabilities.",
    ),
    MARKOV.bug(
        "first_step_of_moves_missing",
        "move",
        ("term:drop|last 3", "input:emit"),
        "A step is left out.",
    ),
]


def mixture(x, logits, means):
    """The mean log-density of points under a mixture of unit Gaussians, but for a constant."""
    apart = ((x[:, None] - means) ** 2).sum(2) / 2
    return logsumexp(jax.nn.log_softmax(logits) - apart, 1).mean()


def mixture_rule(bug=""):
    def backward(x, logits, means, dy):
        off = x[:, None] - means
        joint = jax.nn.log_softmax(logits) - (off**2).sum(2) / 2
        r = jnp.exp(joint) if bug == "joint_for_posterior" else jax.nn.softmax(joint, 1)
        n = 1 if bug == "count_missing" else len(x)
        dlogits = r.sum(0) / n - jax.nn.softmax(logits) * (r.sum() / n)
        if bug == "logits_unnormalised":
            dlogits = r.sum(0) / n
        weighted = r[:, :, None] * off
        dmeans = weighted.sum(0) / n
        if bug == "over_its_own_weight":
            dmeans = weighted.sum(0) / r.sum(0)[:, None]
        return dy * -weighted.sum(1) / n, dy * dlogits, dy * dmeans

    return rule(mixture, backward)


def _points(rng, size):
    n, k, d = sizes(size, (7, 3, 2), (64, 8, 16))
    return normal(rng, n, d), normal(rng, k), normal(rng, k, d)


MIXTURE = Family("mixture", mixture, mixture_rule, _points)
MIXTURE_BUGS = [
    MIXTURE.bug("count_missing", "x logits means", ("factor:n = 7|7",), "The mean is a sum."),
    MIXTURE.bug(
        "joint_for_posterior",
        "x logits means",
        ("term:log|div|drop", "row_scale"),
        "The posteriors are not divided by their sum.",
    ),
    MIXTURE.bug("logits_unnormalised", "logits", ("term:drop", "along:softmax"), "It lacks -p."),
    MIXTURE.bug("over_its_own_weight", "means", ("row_scale", "term"), "It is an M-step."),
]

FAMILIES = [WEIGHTED, ROW, PARTITION, MARKOV, MIXTURE]
BUGS = WEIGHTED_BUGS + ROW_BUGS + PARTITION_BUGS + MARKOV_BUGS + MIXTURE_BUGS
