"""All-pole filters of jaxpole."""

import jax.numpy as jnp
from jaxpole.filter import allpole

from _libraries._cases import audit, check, normal

check("allpole", allpole, normal(2, 6), normal(2, 6, 2, scale=0.3), normal(2, 2))


@audit
def linear_prediction():
    def loss(a, x, y):
        poles = jnp.broadcast_to(jnp.tanh(a) * 0.4, (2, 8, 2))
        return jnp.mean((allpole(x, poles, jnp.zeros((2, 2))) - y) ** 2)

    return loss, normal(2), normal(2, 8, seed=1), normal(2, 8, seed=2)
