"""Integrals by quadax, with their derivatives by Leibniz' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import quadax

from _libraries._cases import audit, check, normal


def bell(x, t):
    return jnp.exp(-t * x * x)


START, END, RATE = np.float32(0), np.float32(1.5), np.float32(0.7)

check(
    "quadgk",
    lambda a, b, t: quadax.quadgk(bell, jnp.array([a, b]), args=(t,))[0],
    START,
    END,
    RATE,
)
check("quadts", lambda b, t: quadax.quadts(bell, jnp.array([0, b]), args=(t,))[0], END, RATE)
check("romberg", lambda b, t: quadax.romberg(bell, jnp.array([0, b]), args=(t,))[0], END, RATE)


@audit
def transform_of_a_wave():
    def loss(params, y):
        def integral(t):
            def wave(x, t):
                return jnp.sin(params[0] * x) * jnp.exp(-t * x)

            return quadax.quadgk(wave, jnp.array([0.0, 2.0]), args=(t,))[0]

        return jnp.mean((jax.vmap(integral)(params[1:]) - y) ** 2)

    return loss, np.float32([1, 0.5, 0.8]), normal(2)


@audit
def limits():
    def loss(params, y):
        ends = jnp.array([0.0, 1.0]) * params[1]
        return (quadax.quadcc(lambda x: jnp.exp(-params[0] * x**2), ends)[0] - y) ** 2

    return loss, np.float32([0.7, 1.3]), np.float32(0.5)
