"""Modules, loops and run-time checks of equinox."""

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from _libraries._cases import audit, check, normal

KEYS = jax.random.split(jax.random.key(0), 4)


def looped(x):
    """Five steps of a while loop that keeps some of them for its backward pass."""

    def body(state):
        return state[0] + 1, jnp.sin(state[1]) * 1.1

    options = {"max_steps": 8, "kind": "checkpointed"}
    return eqxi.while_loop(lambda state: state[0] < 5, body, (0, x), **options)[1]


check("nextafter", eqxi.nextafter, normal(4))
check("while_checkpointed", looped, normal(4))
check("error_if", lambda x: eqx.error_if(x * 2, jnp.any(x > 100.0), "too large"), normal(4))
check(
    "nondifferentiable",
    lambda x, y: x * eqxi.nondifferentiable(jax.lax.stop_gradient(y)),
    normal(4),
    normal(4, seed=1),
)


@audit
def mlp():
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(4, 8, key=KEYS[0]),
            eqx.nn.LayerNorm(8),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(8, 3, key=KEYS[1]),
        ]
    )

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    return loss, model, normal(5, 4), normal(5, 3, seed=1)


@audit
def recurrent_attention():
    model = eqx.nn.GRUCell(3, 6, key=KEYS[0]), eqx.nn.MultiheadAttention(2, 6, key=KEYS[1])

    def loss(model, x):
        cell, attention = model
        _, h = jax.lax.scan(lambda h, x: (cell(x, h),) * 2, jnp.zeros(6), x)
        return jnp.mean(jax.nn.relu(attention(h, h, h)) ** 2)

    return loss, model, normal(5, 3)


@audit
def convnet():
    model = eqx.nn.Conv2d(2, 4, 3, key=KEYS[0]), eqx.nn.Linear(16, 3, key=KEYS[1])

    def loss(model, x, y):
        conv, linear = model

        def one(x):
            return linear(eqx.nn.MaxPool2d(2, 2)(jax.nn.relu6(conv(x))).ravel())

        return jnp.mean(jax.nn.softplus(jax.vmap(one)(x) * y))

    return loss, model, normal(3, 2, 6, 6), normal(3, 3, seed=1)


@audit
def checked_loop():
    def loss(w, x):
        x = eqx.error_if(x, jnp.any(jnp.isnan(x)), "x has a NaN")

        def body(state):
            return state[0] + 1, jnp.tanh(w @ state[1])

        options = {"max_steps": 8, "kind": "checkpointed"}
        h = eqxi.while_loop(lambda state: state[0] < 4, body, (0, x), **options)[1]
        return jnp.sum(h**2)

    return loss, normal(3, 3), normal(3, seed=1)
