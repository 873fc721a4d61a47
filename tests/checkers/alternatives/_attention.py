"""Attention whose backward keeps only what it must, and what stands around attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alternatives._rule import Axis, B, H, K, Rule, T, family, integers, normal, ruled, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")

qkv = (normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, K))


def seen(t, s, window=None):
    """Which keys a query sees: the past, or the last `window` of it."""
    back = jnp.arange(t)[:, None] - jnp.arange(s)
    return (back >= 0) & (back < (window or t + s))


def scores(q, k, mask=None):
    z = jnp.einsum("bthk,bshk->bhts", wide(q), wide(k)) / np.sqrt(q.shape[-1])
    return z if mask is None else jnp.where(mask, z, -jnp.inf)


def attend(q, k, v, mask=None):
    p = jax.nn.softmax(scores(q, k, mask), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", p, wide(v)).astype(q.dtype)


def gradients(q, k, v, p, dp_scale, dy):
    """From the probabilities: delta is the row sum of p dp."""
    q, k, v, dy = map(wide, (q, k, v, dy))
    dv = jnp.einsum("bhts,bthk->bshk", p, dy)
    dp = jnp.einsum("bthk,bshk->bhts", dy, v)
    dz = p * (dp - jnp.sum(p * dp, -1, keepdims=True)) * dp_scale / np.sqrt(q.shape[-1])
    return jnp.einsum("bhts,bshk->bthk", dz, k), jnp.einsum("bhts,bthk->bshk", dz, q), dv


def cast_like(grads, args):
    return tuple(d.astype(a.dtype) for d, a in zip(grads, args, strict=True))


@rule("attention: from lse", *qkv)
def attention_lse():
    def fwd(q, k, v):
        return attend(q, k, v), (q, k, v, jax.nn.logsumexp(scores(q, k), axis=-1))

    def bwd(res, dy):
        *args, lse = res
        p = jnp.exp(scores(*args[:2]) - lse[..., None])
        return cast_like(gradients(*args, p, 1, dy), args)

    return ruled(lambda q, k, v: attend(q, k, v), fwd, bwd)


@rule("causal attention: delta from the output", *qkv)
def attention_delta():
    def primal(q, k, v):
        return attend(q, k, v, seen(q.shape[1], k.shape[1]))

    def fwd(q, k, v):
        p = jax.nn.softmax(scores(q, k, seen(q.shape[1], k.shape[1])), axis=-1)
        o = jnp.einsum("bhts,bshk->bthk", p, wide(v))
        return o.astype(q.dtype), (q, k, v, o)

    def bwd(res, dy):
        *args, o = res
        q, k, v = map(wide, args)
        dy = wide(dy)
        p = jax.nn.softmax(scores(q, k, seen(q.shape[1], k.shape[1])), axis=-1)
        delta = jnp.einsum("bthk,bthk->bht", dy, o)
        dz = p * (jnp.einsum("bthk,bshk->bhts", dy, v) - delta[..., None])
        dq = jnp.einsum("bhts,bshk->bthk", dz, k) / np.sqrt(q.shape[-1])
        dk = jnp.einsum("bhts,bthk->bshk", dz, q) / np.sqrt(q.shape[-1])
        return cast_like((dq, dk, jnp.einsum("bhts,bthk->bshk", p, dy)), args)

    return ruled(primal, fwd, bwd)


@rule("causal attention: blocks of queries, each its past", *qkv)
def attention_blocks():
    block = 4

    def primal(q, k, v):
        return attend(q, k, v, seen(q.shape[1], k.shape[1]))

    def bwd(res, dy):
        q, k, v = res
        t = q.shape[1]
        dq, dk, dv = (jnp.zeros(a.shape, wide(a).dtype) for a in res)
        for i in range(0, t, block):
            end = min(i + block, t)
            past = (q[:, i:end], k[:, :end], v[:, :end])
            p = jax.nn.softmax(scores(*past[:2], seen(t, t)[i:end, :end]), axis=-1)
            dqi, dki, dvi = gradients(*past, p, 1, dy[:, i:end])
            dq = dq.at[:, i:end].set(dqi)
            dk, dv = dk.at[:, :end].add(dki), dv.at[:, :end].add(dvi)
        return cast_like((dq, dk, dv), res)

    return ruled(primal, lambda q, k, v: (primal(q, k, v), (q, k, v)), bwd)


@rule("causal attention: online in blocks of keys under a scan", *qkv)
def attention_online():
    block = 2

    def key_blocks(a):
        return jnp.moveaxis(wide(a).reshape(a.shape[0], -1, block, *a.shape[2:]), 1, 0)

    def fwd(q, k, v):
        b, t, h, width = q.shape

        def step(carry, numbered):
            top, total, o = carry
            i, ki, vi = numbered
            mask = jnp.arange(t)[:, None] >= i * block + jnp.arange(block)
            z = scores(q, ki, mask)
            new = jnp.maximum(top, jnp.max(z, -1))
            e = jnp.exp(z - new[..., None])
            shrink = jnp.exp(top - new)
            o = o * shrink[..., None] + jnp.einsum("bhts,bshk->bhtk", e, vi)
            return (new, total * shrink + jnp.sum(e, -1), o), None

        zeros = jnp.zeros((b, h, t, width), wide(q).dtype)
        start = (zeros[..., 0] - 1e30, zeros[..., 0], zeros)
        numbered = (jnp.arange(k.shape[1] // block), key_blocks(k), key_blocks(v))
        (top, total, o), _ = lax.scan(step, start, numbered)
        y = (o / total[..., None]).swapaxes(1, 2).astype(q.dtype)
        return y, (q, k, v, top + jnp.log(total))

    def bwd(res, dy):
        *args, lse = res
        q, k, v = args
        p = jnp.exp(scores(q, k, seen(q.shape[1], k.shape[1])) - lse[..., None])
        return cast_like(gradients(q, k, v, p, 1, dy), args)

    def primal(q, k, v):
        return attend(q, k, v, seen(q.shape[1], k.shape[1]))

    return ruled(primal, fwd, bwd)


@rule("causal attention: a sliding window", *qkv)
def attention_window():
    def primal(q, k, v):
        return attend(q, k, v, seen(q.shape[1], k.shape[1], 3))

    def bwd(res, dy):
        q, k, v = res
        p = jax.nn.softmax(scores(q, k, seen(q.shape[1], k.shape[1], 3)), axis=-1)
        return cast_like(gradients(q, k, v, p, 1, dy), res)

    return ruled(primal, lambda q, k, v: (primal(q, k, v), (q, k, v)), bwd)


@rule("attention: soft-capped scores", *qkv)
def attention_soft_cap():
    cap = 3.0

    def probabilities(q, k):
        t = jnp.tanh(scores(q, k) / cap)
        return jax.nn.softmax(cap * t, axis=-1), (1 - t) * (1 + t)

    def primal(q, k, v):
        p, _ = probabilities(q, k)
        return jnp.einsum("bhts,bshk->bthk", p, wide(v)).astype(q.dtype)

    def bwd(res, dy):
        return cast_like(gradients(*res, *probabilities(*res[:2]), dy), res)

    return ruled(primal, lambda q, k, v: (primal(q, k, v), (q, k, v)), bwd)


@rule("attention: grouped queries", normal(B, T, 6, K), normal(B, T, 2, K), normal(B, T, 2, K))
def attention_grouped():
    def spread(a, q):
        return jnp.repeat(a, q.shape[2] // a.shape[2], 2)

    def primal(q, k, v):
        return attend(q, spread(k, q), spread(v, q))

    def bwd(res, dy):
        q, k, v = res
        k_all, v_all = spread(k, q), spread(v, q)
        p = jax.nn.softmax(scores(q, k_all), axis=-1)
        dq, *others = gradients(q, k_all, v_all, p, 1, dy)
        b, s, h, width = k.shape
        dk, dv = (jnp.sum(d.reshape(b, s, h, -1, width), 3) for d in others)
        return cast_like((dq, dk, dv), res)

    return ruled(primal, lambda q, k, v: (primal(q, k, v), (q, k, v)), bwd)


def _lengths(rng, size):
    lengths = integers(0, T, B)(rng, size)
    lengths[-1] = 1 + lengths.max()
    return lengths


@rule("attention: lengths, rows without keys give zero", *qkv, _lengths)
def attention_lengths():
    def probabilities(q, k, lengths):
        mask = (jnp.arange(k.shape[1]) < lengths[:, None])[:, None, None, :]
        z = jnp.where(mask, scores(q, k), -1e30)
        return jnp.where(mask, jax.nn.softmax(z, axis=-1), 0)

    def primal(q, k, v, lengths):
        p = probabilities(q, k, lengths)
        return jnp.einsum("bhts,bshk->bthk", p, wide(v)).astype(q.dtype)

    def bwd(res, dy):
        *args, lengths = res
        p = probabilities(*args[:2], lengths)
        return *cast_like(gradients(*args, p, 1, dy), args), None

    def fwd(q, k, v, lengths):
        return primal(q, k, v, lengths), (q, k, v, lengths)

    return ruled(primal, fwd, bwd)


@rule("linear attention: running sums, reversed", *(normal(B, T, K),) * 3)
def attention_linear():
    def primal(q, k, v):
        state = jnp.cumsum(jnp.einsum("btk,btj->btkj", wide(k), wide(v)), 1)
        return jnp.einsum("btk,btkj->btj", wide(q), state).astype(q.dtype)

    def bwd(res, dy):
        q, k, v, dy = map(wide, (*res, dy))
        past = jnp.cumsum(jnp.einsum("btk,btj->btkj", k, v), 1)
        future = jnp.cumsum(jnp.einsum("btk,btj->btkj", q, dy)[:, ::-1], 1)[:, ::-1]
        dq = jnp.einsum("btj,btkj->btk", dy, past)
        dk = jnp.einsum("btj,btkj->btk", v, future)
        dv = jnp.einsum("btk,btkj->btj", k, future)
        return cast_like((dq, dk, dv), res)

    return ruled(primal, lambda q, k, v: (primal(q, k, v), (q, k, v)), bwd)


def rotate(x, sign):
    t, width = x.shape[1], x.shape[-1]
    angles = jnp.arange(t)[:, None] / 100.0 ** (jnp.arange(width // 2) * 2 / width)
    cos, sin = jnp.cos(angles)[:, None], sign * jnp.sin(angles)[:, None]
    a, b = jnp.split(wide(x), 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


@rule("rope: the inverse rotation", normal(B, T, H, K))
def rope():
    turn = functools.partial(rotate, sign=1)
    return ruled(lambda x: turn(x), lambda x: (turn(x), None), lambda _, dy: (rotate(dy, -1),))


@rule("relative bias: gathered, summed by distance", normal(Axis(9, 95), H), normal(B, H, T, T))
def relative_bias():
    """The bias of each distance, the future held at the last of them."""

    def index(t, n):
        back = jnp.arange(t)[:, None] - jnp.arange(t)
        return jnp.clip(back + n // 2, 0, n - 1)

    def primal(table, z):
        return z + jnp.moveaxis(table[index(z.shape[-1], table.shape[0])], -1, 0)

    def bwd(res, dy):
        table, t = res, dy.shape[-1]
        hot = jax.nn.one_hot(index(t, table.shape[0]), table.shape[0], dtype=wide(dy).dtype)
        return jnp.einsum("bhts,tsn->nh", wide(dy), hot).astype(table.dtype), dy

    return ruled(primal, lambda table, z: (primal(table, z), table), bwd)
