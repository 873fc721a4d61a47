"""Networks of dm-haiku."""

import haiku as hk
import jax
import jax.numpy as jnp

from _libraries._cases import audit, normal

KEY = jax.random.key(0)


@audit
def convnet():
    def network(x):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), True)
        x = hk.max_pool(jax.nn.relu(x), 2, 2, "SAME").mean((1, 2))
        return hk.Linear(3)(hk.LayerNorm(-1, True, True)(x))

    model, x = hk.transform_with_state(network), normal(3, 6, 6, 2)
    params, state = model.init(KEY, x)

    def loss(params, x, y):
        return jnp.mean((model.apply(params, state, KEY, x)[0] - y) ** 2)

    return loss, params, x, normal(3, 3, seed=1)


@audit
def lstm_with_dropout():
    def network(x):
        h, _ = hk.dynamic_unroll(hk.LSTM(5), x, hk.LSTM(5).initial_state(2))
        return hk.Linear(2)(hk.dropout(hk.next_rng_key(), 0.3, jax.nn.relu(h[-1])))

    model, x = hk.transform(network), normal(4, 2, 3)

    def loss(params, x):
        return jnp.mean(model.apply(params, KEY, x) ** 2)

    return loss, model.init(KEY, x), x


@audit
def straight_through_bits():
    def network(x):
        p = jax.nn.sigmoid(hk.nets.MLP([8, 4], activation=jax.nn.relu6)(x))
        return hk.Linear(1)(p + jax.lax.stop_gradient(jnp.round(p) - p))

    model, x = hk.transform(network), normal(5, 3)

    def loss(params, x):
        return jnp.mean(model.apply(params, KEY, x) ** 2)

    return loss, model.init(KEY, x), x


@audit
def attention():
    def network(x):
        h = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling(), model_size=6)
        return hk.Linear(1)(jax.nn.softplus(h(x, x, x)))

    model, x = hk.transform(network), normal(2, 4, 6)

    def loss(params, x):
        return jnp.mean(model.apply(params, KEY, x) ** 2)

    return loss, model.init(KEY, x), x
