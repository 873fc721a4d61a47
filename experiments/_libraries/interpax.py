"""Interpolation by interpax."""

import interpax
import jax
import jax.numpy as jnp
import numpy as np

from _libraries._cases import audit, normal, uniform


@audit
def monotone_spline():
    def loss(heights, x, y):
        spline = interpax.interp1d(x, jnp.linspace(0, 1, 7), heights, method="monotonic")
        return jnp.mean(jax.nn.softplus(spline * y))

    return loss, normal(7), uniform(9, low=0.05, high=0.95), np.sign(normal(9, seed=1))
