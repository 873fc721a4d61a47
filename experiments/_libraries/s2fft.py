"""Transforms on the sphere by s2fft."""

import jax
import jax.numpy as jnp
import s2fft

from _libraries._cases import audit, normal, uniform


@audit
def power_on_the_sphere():
    def loss(f, weights):
        return jnp.sum(jnp.abs(s2fft.forward_jax(jax.nn.relu(f), 4)) ** 2 * weights)

    return loss, normal(4, 7), uniform(4, 7)
