"""The kernels that jax ships with backward kernels of their own, in Pallas's interpret mode.

Their gradients cannot be differentiated a second time. Several of them compute in float32 whatever
they are given, so their float64 gradients carry float32's rounding. Off their hardware they are
slow: real sizes are smaller than elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np

from alternatives._rule import Axis, Rule, family, normal, ruled

RULES: list[Rule] = []
rule = family(RULES, "pallas")
OPS = "jax.experimental.pallas.ops"

N, D = Axis(3, 16), Axis(8, 128)
T, H, K = Axis(16, 64), Axis(1, 2), Axis(16, 32)
SHORT = ("float32", "bfloat16")


def layer_norm_reference(x, weight, bias):
    mu = jnp.mean(x, -1, keepdims=True)
    var = jnp.mean((x - mu) ** 2, -1, keepdims=True)
    return (x - mu) * jax.lax.rsqrt(var + 1e-5) * weight + bias


@rule(
    "pallas.ops.gpu.layer_norm",
    normal(1, N, D),
    normal(D, shift=1),
    normal(D),
    reference=layer_norm_reference,
    needs=(f"{OPS}.gpu.layer_norm",),
)
def layer_norm():
    from jax.experimental.pallas.ops.gpu.layer_norm import layer_norm

    return lambda x, weight, bias: layer_norm(x, weight, bias, interpret=True)


def rms_norm_reference(x, weight, bias):
    mean_square = jnp.mean(x * x, -1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + 1e-5) * weight + bias


@rule(
    "pallas.ops.gpu.rms_norm",
    normal(1, N, D),
    normal(D, shift=1),
    normal(D),
    reference=rms_norm_reference,
    needs=(f"{OPS}.gpu.rms_norm",),
)
def rms_norm():
    from jax.experimental.pallas.ops.gpu.rms_norm import rms_norm

    return lambda x, weight, bias: rms_norm(x, weight, bias, interpret=True)


def attention(causal, heads_first, scale):
    """Plain attention over (B, T, H, K), or over (B, H, T, K)."""

    def f(q, k, v):
        if not heads_first:
            q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
        z = jnp.einsum("bhtk,bhsk->bhts", q, k) * scale
        if causal:
            z = jnp.where(np.tril(np.ones(z.shape[-2:], bool)), z, -jnp.inf)
        y = jnp.einsum("bhts,bhsk->bhtk", jax.nn.softmax(z, axis=-1), v)
        return y if heads_first else y.swapaxes(1, 2)

    return f


qkv = (normal(1, T, H, K),) * 3


def gpu_mha(causal):
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    blocks = BlockSizes(16, 16, 16, 16, 16, 16)

    def f(q, k, v):
        return mha(q, k, v, None, 0.5, causal, block_sizes=blocks, interpret=True)

    return f


gpu = {"needs": (f"{OPS}.gpu.attention",), "dtypes": SHORT}


@rule("pallas.ops.gpu.attention: mha", *qkv, reference=attention(False, False, 0.5), **gpu)
def mha():
    return gpu_mha(False)


@rule("pallas.ops.gpu.attention: causal mha", *qkv, reference=attention(True, False, 0.5), **gpu)
def causal_mha():
    return gpu_mha(True)


@rule(
    "pallas.ops.tpu.flash_attention",
    *(normal(1, 1, 128, 128, scale=0.5),) * 3,
    reference=attention(True, True, 0.1),
    needs=(f"{OPS}.tpu.flash_attention",),
    dtypes=SHORT,
    notes="heads are 128 wide and blocks 128 long whatever the size",
)
def flash_attention():
    from jax.experimental.pallas import tpu as pltpu
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

    blocks = BlockSizes(
        block_q=128,
        block_k_major=128,
        block_k=128,
        block_b=1,
        block_q_major_dkv=128,
        block_k_major_dkv=128,
        block_k_dkv=128,
        block_q_dkv=128,
        block_k_major_dq=128,
        block_k_dq=128,
        block_q_dq=128,
    )

    def primal(q, k, v):
        with pltpu.force_tpu_interpret_mode():
            return flash_attention(q, k, v, causal=True, sm_scale=0.1, block_sizes=blocks)

    # Its backward kernels are traced later, so they need the mode again.
    def bwd(vjp, dy):
        with pltpu.force_tpu_interpret_mode():
            return vjp(dy)

    return ruled(primal, lambda q, k, v: jax.vjp(primal, q, k, v), bwd)


@rule(
    "pallas.ops.tpu.splash_attention",
    *(normal(H, 128, 128, scale=0.3),) * 3,
    reference=lambda q, k, v: attention(True, True, 1)(q[None], k[None], v[None])[0],
    needs=(f"{OPS}.tpu.splash_attention",),
    dtypes=SHORT,
)
def splash_attention():
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    blocks = splash.BlockSizes(128, 128, 128, 128, 128, 128, 128, 128)

    def f(q, k, v):
        mask = splash.MultiHeadMask([splash.CausalMask((128, 128))] * q.shape[0])
        kernel = splash.make_splash_mha(
            mask, head_shards=1, q_seq_shards=1, block_sizes=blocks, interpret=True
        )
        return kernel(q, k, v)

    return f


def grouped_product(x, w, sizes):
    return jax.lax.ragged_dot(x, w, sizes)


@rule(
    "pallas.ops.tpu.megablox: gmm",
    normal(16, Axis(8, 32)),
    normal(3, Axis(8, 32), 16),
    lambda rng, size: np.int32([5, 8, 3]),
    reference=grouped_product,
    needs=(f"{OPS}.tpu.megablox",),
    dtypes=SHORT,
)
def grouped():
    from jax.experimental.pallas.ops.tpu.megablox.ops import gmm

    return lambda x, w, sizes: gmm(x, w, sizes, x.dtype, (8, 8, 8), interpret=True)
