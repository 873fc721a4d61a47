"""Scaled dot-product attention, forward and backward written once for all its variants.

q, k, v have shape (B, H, T, K). `seen` says which keys a query sees.
"""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, rule, sizes

SHAPES = ((2, 3, 7, 5), (2, 4, 64, 32))
BLOCK = 4


def attend(q, k, v, seen=None, cap=None):
    """y = softmax(q k^T / sqrt(K)) v; a query that sees no key gives 0."""
    s = jnp.einsum("bhtk,bhsk->bhts", q, k) / np.sqrt(q.shape[-1]).item()
    if cap is not None:
        s = cap * jnp.tanh(s / cap)
    return jnp.einsum("bhts,bhsk->bhtk", probabilities(s, seen), v)


def probabilities(s, seen):
    """Softmax over the keys that are seen."""
    if seen is not None:
        s = jnp.where(seen, s, jnp.finfo(s.dtype).min / 2)
    e = jnp.exp(s - jax.lax.stop_gradient(s.max(-1, keepdims=True)))
    if seen is not None:
        e = jnp.where(seen, e, 0)
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total > 0, total, 1)


def dattend(bug, q, k, v, dy, seen=None, cap=None):
    """(dq, dk, dv) of `attend`."""
    scale = 1 / np.sqrt(q.shape[-1]).item()
    s = jnp.einsum("bhtk,bhsk->bhts", q, k) * scale
    if cap is not None:
        t = jnp.tanh(s / cap)
        s = cap * t
    p = probabilities(s, seen)
    if bug == "fully_masked_nan":
        e = jnp.where(seen, jnp.exp(s - s.max(-1, keepdims=True)), 0)
        p = e / e.sum(-1, keepdims=True)
    if bug == "diagonal_masked":
        p = jnp.where(jnp.eye(p.shape[-1], dtype=bool), 0, p)
    if bug == "last_key_block_dropped":
        p = p.at[..., (p.shape[-1] - 1) // BLOCK * BLOCK :].set(0)

    weights = jnp.exp(s - s.max(-1, keepdims=True)) if bug == "dv_unnormalised" else p
    dv = jnp.einsum("bhts,bhtk->bhsk", weights, dy)
    dp = jnp.einsum("bhtk,bhsk->bhts", dy, v)
    delta = (p * dp).sum(-1, keepdims=True)
    if bug == "delta_dropped":
        delta = 0
    if bug == "delta_over_queries":
        delta = (p * dp).sum(-2, keepdims=True)
    ds = p * (dp - delta)
    if bug == "p_missing":
        ds = dp - delta
    if cap is not None and bug != "cap_derivative_missing":
        ds = ds * (1 - t**2)
    dq = jnp.einsum("bhts,bhsk->bhtk", ds, k) * scale
    dk = jnp.einsum("bhts,bhtk->bhsk", ds, q) * scale
    if bug == "scale_missing_in_dq":
        dq = dq / scale
    if bug == "scale_missing_in_dk":
        dk = dk / scale
    if bug == "scale_twice_in_dk":
        dk = dk * scale
    if bug == "dq_and_dk_swapped":
        dq, dk = dk, dq
    if bug == "head_0_only":
        dq, dk, dv = (d.at[:, 1:].set(0) for d in (dq, dk, dv))
    if bug == "dk_first_example":
        dk = jnp.broadcast_to(dk[:1], dk.shape)
    return dq, dk, dv


def attention(q, k, v):
    """Every query sees every key."""
    return attend(q, k, v)


def attention_rule(bug=""):
    return rule(attention, lambda q, k, v, dy: dattend(bug, q, k, v, dy))


def qkv(rng, size):
    return tuple(normal(rng, *sizes(size, *SHAPES)) for _ in range(3))


ATTENTION = Family("attention", attention, attention_rule, qkv)
ATTENTION_BUGS = [
    ATTENTION.bug(
        "scale_missing_in_dq", "q", ("factor:sqrt|5.65|2.23", "term"), "dq lacks 1 / sqrt(K)."
    ),
    ATTENTION.bug(
        "scale_missing_in_dk", "k", ("factor:sqrt|5.65|2.23", "term"), "dk lacks 1 / sqrt(K)."
    ),
    ATTENTION.bug("scale_twice_in_dk", "k", ("factor",), "dk has 1 / sqrt(K) twice."),
    ATTENTION.bug("delta_dropped", "q k", ("term:drop",), "ds lacks delta = sum(p dp)."),
    ATTENTION.bug(
        "delta_over_queries",
        "q k",
        ("term:reduce_sum|axis",),
        "delta sums over the queries, not over the keys.",
    ),
    ATTENTION.bug("p_missing", "q k", ("term:drop",), "ds lacks its factor p."),
    ATTENTION.bug(
        "diagonal_masked", "q k v", ("term", "mask", "subset"), "The backward masks the diagonal."
    ),
    ATTENTION.bug(
        "dv_unnormalised", "v", ("term:drop|div", "row_scale"), "dv uses e^s and not e^s / sum."
    ),
    ATTENTION.bug("dq_and_dk_swapped", "q k", ("swap",), "dq and dk are swapped."),
    ATTENTION.bug(
        "head_0_only",
        "q k v",
        ("subset", "cotangent:first|head|axis 1"),
        "Only the first head has a gradient.",
    ),
    ATTENTION.bug(
        "last_key_block_dropped",
        "q k v",
        ("subset:last", "term", "mask"),
        "The last block of keys is skipped.",
    ),
    ATTENTION.bug(
        "dk_first_example",
        "k",
        ("subset", "term", "cotangent:first"),
        "Every example gets dk of the first.",
    ),
]


FAMILIES = [ATTENTION]
BUGS = ATTENTION_BUGS
