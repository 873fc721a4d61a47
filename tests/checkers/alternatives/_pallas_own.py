"""Three kernels written for this comparison, forward and backward, in interpret mode.

Their gradients come from kernels, so they cannot be differentiated a second time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from alternatives._rule import Axis, Rule, family, integers, normal, ruled, wide

RULES: list[Rule] = []
rule = family(RULES, "pallas")

EPS = 1e-6
ROWS = 2
N, D, V = Axis(4, 32), Axis(7, 131), Axis(11, 257)


def rows(width):
    return pl.BlockSpec((ROWS, width), lambda i: (i, 0))


def column():
    return pl.BlockSpec((ROWS,), lambda i: (i,))


def whole(*shape):
    return pl.BlockSpec(shape, lambda i: (0,) * len(shape))


def like(x, shape=None, dtype=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, dtype or x.dtype)


def cross_entropy_kernel(z_ref, label_ref, loss_ref, lse_ref):
    z = wide(z_ref[...])
    top = jnp.max(z, -1)
    lse = top + jnp.log(jnp.sum(jnp.exp(z - top[:, None]), -1))
    hot = jnp.arange(z.shape[-1]) == label_ref[...][:, None]
    loss_ref[...] = lse - jnp.sum(jnp.where(hot, z, 0), -1)
    lse_ref[...] = lse


def cross_entropy_backward_kernel(z_ref, label_ref, lse_ref, dloss_ref, dz_ref):
    z = wide(z_ref[...])
    hot = jnp.arange(z.shape[-1]) == label_ref[...][:, None]
    p = jnp.exp(z - lse_ref[...][:, None])
    dz_ref[...] = (dloss_ref[...][:, None] * (p - hot)).astype(dz_ref.dtype)


def cross_entropy_reference(logits, labels):
    log_p = jax.nn.log_softmax(wide(logits), axis=-1)
    return -jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]


@rule(
    "pallas kernel: softmax cross-entropy from lse",
    normal(N, V, scale=2),
    integers(0, V, N),
    reference=cross_entropy_reference,
)
def cross_entropy():
    def forward(logits, labels):
        n, v = logits.shape
        out = like(logits, (n,), wide(logits).dtype)
        return pl.pallas_call(
            cross_entropy_kernel,
            grid=(n // ROWS,),
            in_specs=[rows(v), column()],
            out_specs=[column(), column()],
            out_shape=[out, out],
            interpret=True,
        )(logits, labels)

    def fwd(logits, labels):
        loss, lse = forward(logits, labels)
        return loss, (logits, labels, lse)

    def bwd(res, dloss):
        logits, labels, lse = res
        n, v = logits.shape
        dlogits = pl.pallas_call(
            cross_entropy_backward_kernel,
            grid=(n // ROWS,),
            in_specs=[rows(v), column(), column(), column()],
            out_specs=rows(v),
            out_shape=like(logits),
            interpret=True,
        )(logits, labels, lse, dloss)
        return dlogits, None

    return ruled(lambda logits, labels: forward(logits, labels)[0], fwd, bwd)


def rms_norm_kernel(x_ref, g_ref, y_ref):
    x = wide(x_ref[...])
    rstd = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS)
    y_ref[...] = (x * rstd * wide(g_ref[...])).astype(y_ref.dtype)


def rms_norm_backward_kernel(x_ref, g_ref, dy_ref, dx_ref, dg_ref):
    x, g, dy = wide(x_ref[...]), wide(g_ref[...]), wide(dy_ref[...])
    rstd = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS)
    x_hat, dgx = x * rstd, dy * g
    dx = rstd * (dgx - x_hat * jnp.mean(dgx * x_hat, -1, keepdims=True))
    dx_ref[...] = dx.astype(dx_ref.dtype)

    # One dg for all blocks: the first of them clears it.
    @pl.when(pl.program_id(0) == 0)
    def _():
        dg_ref[...] = jnp.zeros_like(dg_ref)

    dg_ref[...] += jnp.sum(dy * x_hat, 0)


def rms_norm_reference(x, g):
    z = wide(x)
    rstd = jax.lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + EPS)
    return (z * rstd * wide(g)).astype(x.dtype)


@rule(
    "pallas kernel: rms norm, dg summed over blocks",
    normal(N, D),
    normal(D, shift=1),
    reference=rms_norm_reference,
)
def rms_norm():
    def forward(x, g):
        n, d = x.shape
        return pl.pallas_call(
            rms_norm_kernel,
            grid=(n // ROWS,),
            in_specs=[rows(d), whole(d)],
            out_specs=rows(d),
            out_shape=like(x),
            interpret=True,
        )(x, g)

    def bwd(res, dy):
        x, g = res
        n, d = x.shape
        dx, dg = pl.pallas_call(
            rms_norm_backward_kernel,
            grid=(n // ROWS,),
            in_specs=[rows(d), whole(d), rows(d)],
            out_specs=[rows(d), whole(d)],
            out_shape=[like(x), like(g, dtype=wide(g).dtype)],
            interpret=True,
        )(x, g, dy)
        return dx, dg.astype(g.dtype)

    return ruled(lambda x, g: forward(x, g), lambda x, g: (forward(x, g), (x, g)), bwd)


BLOCK = 4


def block_scores(q, k, i, j):
    """Scaled scores of block i of the queries and block j of the keys; the future at -1e30."""
    z = q @ k.T / np.sqrt(q.shape[-1]).astype(q.dtype)
    at = jnp.arange(BLOCK)
    return jnp.where(i * BLOCK + at[:, None] >= j * BLOCK + at, z, -1e30)


def take(ref, i):
    return wide(ref[pl.ds(i * BLOCK, BLOCK), :])


def attention_kernel(q_ref, k_ref, v_ref, o_ref, lse_ref):
    i, q = pl.program_id(0), wide(q_ref[...])

    def step(j, carry):
        top, total, o = carry
        z = block_scores(q, take(k_ref, j), i, j)
        new = jnp.maximum(top, jnp.max(z, -1))
        p, shrink = jnp.exp(z - new[:, None]), jnp.exp(top - new)
        return new, total * shrink + jnp.sum(p, -1), o * shrink[:, None] + p @ take(v_ref, j)

    zero = jnp.zeros(BLOCK, q.dtype)
    start = (zero - 1e30, zero, jnp.zeros(q.shape, q.dtype))
    top, total, o = jax.lax.fori_loop(0, i + 1, step, start)
    o_ref[...] = (o / total[:, None]).astype(o_ref.dtype)
    lse_ref[...] = top + jnp.log(total)


def dq_kernel(q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, dq_ref):
    i, q, do = pl.program_id(0), wide(q_ref[...]), wide(do_ref[...])

    def step(j, dq):
        k = take(k_ref, j)
        p = jnp.exp(block_scores(q, k, i, j) - lse_ref[...][:, None])
        return dq + p * (do @ take(v_ref, j).T - delta_ref[...][:, None]) @ k

    dq = jax.lax.fori_loop(0, i + 1, step, jnp.zeros(q.shape, q.dtype))
    dq_ref[...] = (dq / np.sqrt(q.shape[-1])).astype(dq_ref.dtype)


def dkv_kernel(q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, dk_ref, dv_ref):
    j, k, v = pl.program_id(0), wide(k_ref[...]), wide(v_ref[...])

    def step(i, carry):
        dk, dv = carry
        q, do = take(q_ref, i), take(do_ref, i)
        lse, delta = (r[pl.ds(i * BLOCK, BLOCK)][:, None] for r in (lse_ref, delta_ref))
        p = jnp.exp(block_scores(q, k, i, j) - lse)
        dz = p * (do @ v.T - delta)
        return dk + dz.T @ q, dv + p.T @ do

    zeros = jnp.zeros(k.shape, k.dtype)
    # Only the queries from this block of keys on see it.
    blocks = q_ref.shape[0] // BLOCK
    dk, dv = jax.lax.fori_loop(j, blocks, step, (zeros, zeros))
    dk_ref[...] = (dk / np.sqrt(k.shape[-1])).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def attention_reference(q, k, v):
    z = wide(q) @ wide(k).T / np.sqrt(q.shape[-1])
    z = jnp.where(np.tril(np.ones(z.shape, bool)), z, -jnp.inf)
    return (jax.nn.softmax(z, axis=-1) @ wide(v)).astype(q.dtype)


@rule(
    "pallas kernel: block-causal attention of one head",
    *(normal(Axis(8, 32), Axis(4, 16)),) * 3,
    reference=attention_reference,
)
def attention():
    def call(kernel, q, outs, args, blocked):
        t, width = q.shape
        block = pl.BlockSpec((BLOCK, width), lambda i: (i, 0))
        vector = pl.BlockSpec((BLOCK,), lambda i: (i,))

        def spec(a, is_blocked):
            if is_blocked:
                return block if len(a.shape) == 2 else vector
            return whole(*a.shape)

        return pl.pallas_call(
            kernel,
            grid=(t // BLOCK,),
            in_specs=[spec(a, b) for a, b in zip(args, blocked, strict=True)],
            out_specs=[spec(a, True) for a in outs],
            out_shape=outs,
            interpret=True,
        )(*args)

    def forward(q, k, v):
        lse = like(q, q.shape[:1], wide(q).dtype)
        return call(attention_kernel, q, [like(q), lse], (q, k, v), (True, False, False))

    def fwd(q, k, v):
        o, lse = forward(q, k, v)
        return o, (q, k, v, o, lse)

    def bwd(res, do):
        q, k, v, o, lse = res
        delta = jnp.sum(wide(do) * wide(o), -1)
        args = (q, k, v, do, lse, delta)
        (dq,) = call(dq_kernel, q, [like(q)], args, (True, False, False, True, True, True))
        blocked = (False, True, True, False, False, False)
        dk, dv = call(dkv_kernel, k, [like(k), like(v)], args, blocked)
        return dq, dk, dv

    return ruled(lambda q, k, v: forward(q, k, v)[0], fwd, bwd)
