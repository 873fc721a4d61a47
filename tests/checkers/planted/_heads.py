"""Around attention: grouped queries, rotary positions, an additive bias on the scores."""

import jax.numpy as jnp
import numpy as np

from planted._attention import attend, dattend, probabilities
from planted._bug import Family, normal, normals, rule, sizes


def grouped_attention(q, k, v):
    """Attention where a group of queries' heads shares one head of k and v."""
    group = q.shape[1] // k.shape[1]
    return attend(q, jnp.repeat(k, group, 1), jnp.repeat(v, group, 1))


def grouped_attention_rule(bug=""):
    def backward(q, k, v, dy):
        group = q.shape[1] // k.shape[1]
        dq, *dkv = dattend(bug, q, jnp.repeat(k, group, 1), jnp.repeat(v, group, 1), dy)
        shape = (*k.shape[:2], group, *k.shape[2:])
        dk, dv = (d.reshape(shape).sum(2) for d in dkv)
        if bug == "last_group_only":
            dk, dv = (d.reshape(shape)[:, :, -1] for d in dkv)
        if bug == "mean_over_the_group":
            dk, dv = (d.reshape(shape).mean(2) for d in dkv)
        if bug == "heads_interleaved":
            tiled = (k.shape[0], group, k.shape[1], *k.shape[2:])
            dk, dv = (d.reshape(tiled).sum(1) for d in dkv)
        return dq, dk, dv

    return rule(grouped_attention, backward)


GROUPED = Family(
    "grouped_attention",
    grouped_attention,
    grouped_attention_rule,
    normals(
        ((2, 6, 7, 5), (2, 2, 7, 5), (2, 2, 7, 5)),
        ((2, 8, 32, 32), (2, 2, 32, 32), (2, 2, 32, 32)),
    ),
)
GROUPED_BUGS = [
    GROUPED.bug(
        "last_group_only",
        "k v",
        ("term:drop|reduce_sum", "cotangent", "subset"),
        "dk and dv keep the group's last head: set for add.",
    ),
    GROUPED.bug(
        "mean_over_the_group", "k v", ("factor:1/",), "dk and dv are means over the group."
    ),
    GROUPED.bug(
        "heads_interleaved",
        "k v",
        ("term:transpose|reshape|reduce_sum", "input"),
        "dk and dv add up the heads h, h + 2, ... in the place of neighbours.",
    ),
]


def rope(x):
    """Each pair of features (i, i + K/2) turned by position / 100^(2 i / K)."""
    cos, sin = _angles(x)
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _angles(x):
    _, t, k = x.shape
    angle = np.arange(t)[:, None] / 100 ** (np.arange(k // 2) * 2 / k)
    return jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)


def rope_rule(bug=""):
    def backward(x, dy):
        cos, sin = _angles(x)
        if bug == "identity":
            return (dy,)
        if bug == "sign_of_sin":
            sin = -sin
        if bug == "position_off_by_one":
            cos, sin = jnp.roll(cos, -1, 0), jnp.roll(sin, -1, 0)
        da, db = jnp.split(dy, 2, -1)
        dx = jnp.concatenate([da * cos + db * sin, db * cos - da * sin], -1)
        if bug == "halves_swapped":
            dx = jnp.roll(dx, x.shape[-1] // 2, -1)
        return (dx,)

    return rule(rope, backward)


ROPE = Family("rope", rope, rope_rule, normals(((2, 7, 6),), ((4, 64, 32),)))
ROPE_BUGS = [
    ROPE.bug("sign_of_sin", "x", ("term:negate|sin",), "The backward turns forward again."),
    ROPE.bug("identity", "x", ("term:drop", "along:dy"), "dx is dy, not turned back."),
    ROPE.bug("position_off_by_one", "x", ("term", "roll", "input"), "The angles are those of t+1."),
    ROPE.bug("halves_swapped", "x", ("roll", "term:concatenate|split"), "The halves are swapped."),
]


def biased_attention(q, k, v, bias):
    """Attention with a bias (H, T, T) on the scores, one for all examples."""
    s = jnp.einsum("bhtk,bhsk->bhts", q, k) / np.sqrt(q.shape[-1]).item() + bias
    return jnp.einsum("bhts,bhsk->bhtk", probabilities(s, None), v)


def biased_attention_rule(bug=""):
    def backward(q, k, v, bias, dy):
        scale = 1 / np.sqrt(q.shape[-1]).item()
        s = jnp.einsum("bhtk,bhsk->bhts", q, k) * scale
        p = probabilities(s if bug == "bias_forgotten" else s + bias, None)
        dp = jnp.einsum("bhtk,bhsk->bhts", dy, v)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        dbias = ds.sum(0)
        if bug == "dbias_first_example":
            dbias = ds[0]
        if bug == "dbias_scaled":
            dbias = dbias * scale
        if bug == "dbias_head_mean":
            dbias = jnp.broadcast_to(dbias.mean(0), bias.shape)
        dq = jnp.einsum("bhts,bhsk->bhtk", ds, k) * scale
        dk = jnp.einsum("bhts,bhtk->bhsk", ds, q) * scale
        return dq, dk, jnp.einsum("bhts,bhtk->bhsk", p, dy), dbias

    return rule(biased_attention, backward)


def _with_bias(rng, size):
    b, h, t, k = sizes(size, (2, 3, 7, 5), (2, 4, 32, 32))
    return *(normal(rng, b, h, t, k) for _ in range(3)), normal(rng, h, t, t)


BIASED = Family("biased_attention", biased_attention, biased_attention_rule, _with_bias)
BIASED_BUGS = [
    BIASED.bug(
        "dbias_first_example",
        "bias",
        ("cotangent:first", "term:reduce_sum|drop"),
        "dbias takes the first example only.",
    ),
    BIASED.bug("dbias_scaled", "bias", ("factor:sqrt",), "dbias has the scale of dq."),
    BIASED.bug("dbias_head_mean", "bias", ("constant", "term"), "dbias is a mean over the heads."),
    BIASED.bug(
        "bias_forgotten",
        "q k v bias",
        ("term:drop|add", "input:bias"),
        "The backward computes the probabilities again without the bias.",
    ),
]

FAMILIES = [GROUPED, ROPE, BIASED]
BUGS = GROUPED_BUGS + ROPE_BUGS + BIASED_BUGS
