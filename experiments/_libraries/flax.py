"""Modules of flax: linen and nnx."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.linen import fp8_ops

from _libraries._cases import Bug, audit, check, normal

KEY = jax.random.key(0)


def _fp8_at_a_scale(x):
    """The sum of what is quantized, by the scale: the rule returns the next scale instead."""

    def summed(scale):
        return fp8_ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, x, scale, jnp.zeros(4)).sum()

    one = jnp.ones(1)
    step = 2.0**-3
    return float(jax.grad(summed)(one)[0]), float(summed(one + step) - summed(one)) / step


check(
    "fp8_in_qdq",
    lambda x, scale: fp8_ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, x, scale, jnp.zeros(4)),
    normal(3, 4),
    np.ones(1, np.float32),
    bug=Bug(
        "WRONG",
        "deliberately, the next scale is returned as the gradient of the scale",
        lambda: _fp8_at_a_scale(normal(3, 4)),
    ),
)
check("linen_relu6", nn.relu6, normal(3, 4, scale=4))
check("linen_hard_swish", nn.hard_swish, normal(3, 4, scale=4))
check("linen_log_sigmoid", nn.log_sigmoid, normal(3, 4))


class MLP(nn.Module):
    """Dense layers with the norms in between."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.LayerNorm()(nn.Dense(8)(x)))
        x = nn.gelu(nn.RMSNorm()(nn.Dense(8)(x)))
        return nn.Dense(3)(nn.silu(x))


class ConvNet(nn.Module):
    """Two convolutions with batch and group norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(4, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu6(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


class Block(nn.Module):
    """A transformer block, as nn.scan repeats it."""

    @nn.compact
    def __call__(self, x, _):
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(8)(nn.relu(nn.Dense(16)(x))), None


class Transformer(nn.Module):
    """Two blocks, scanned and rematerialized."""

    @nn.compact
    def __call__(self, x):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 2}
        return nn.scan(nn.remat(Block), **options)()(x, None)[0]


@audit
def linen_mlp():
    model, x = MLP(), normal(5, 4)

    def loss(params, x, y):
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(model.apply(params, x)) * y, -1))

    return loss, model.init(KEY, x), x, jax.nn.one_hot(jnp.arange(5) % 3, 3)


@audit
def linen_convnet():
    model, x = ConvNet(), normal(3, 6, 6, 2)
    variables = model.init(KEY, x)

    def loss(params, x, y):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        out, _ = model.apply(given, x, mutable=["batch_stats"])
        return jnp.mean((out - y) ** 2)

    return loss, variables["params"], x, normal(3, 3, seed=1)


@audit
def linen_transformer():
    model, x = Transformer(), normal(2, 5, 8)

    def loss(params, x):
        return jnp.mean(jax.nn.softmax(model.apply(params, x)) ** 2)

    return loss, model.init(KEY, x), x


@audit
def linen_lstm():
    model, x = nn.RNN(nn.OptimizedLSTMCell(6)), normal(2, 5, 3)

    def loss(params, x, y):
        return jnp.mean((jax.nn.relu(model.apply(params, x)[:, -1]) - y) ** 2)

    return loss, model.init(KEY, x), x, normal(2, 6, seed=1)


@audit
def nnx_mlp():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=rngs),
        nnx.LayerNorm(8, rngs=rngs),
        nnx.relu,
        nnx.Linear(8, 3, rngs=rngs),
    )
    graph, state = nnx.split(model)

    def loss(state, x):
        return jnp.mean(jax.nn.softmax(nnx.merge(graph, state)(x)) ** 2)

    return loss, state, normal(5, 4)


@audit
def nnx_attention():
    model = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.mean(nnx.relu(nnx.merge(graph, params, rest)(x)) ** 2)

    return loss, params, normal(2, 5, 8)
