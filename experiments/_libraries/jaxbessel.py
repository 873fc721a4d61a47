"""Bessel functions of jaxbessel."""

import jax.numpy as jnp
import jaxbessel
import numpy as np

from _libraries._cases import audit, check, normal, uniform

check("j0", jaxbessel.j0, uniform(5, low=-8, high=8))
check("j1", jaxbessel.j1, uniform(5, low=-8, high=8))
check("bessel_jn", lambda x: jaxbessel.bessel_jn(3, x), uniform(5, low=-8, high=8))
check(
    "spherical_bessel_jn",
    lambda x: jaxbessel.spherical_bessel_jn(3, x),
    uniform(5, low=0.1, high=8),
)
check(
    "bessel_jv_over_xv",
    lambda x: jaxbessel.bessel_jv_over_xv(1.5, x),
    uniform(5, low=0.1, high=8),
)


@audit
def beam():
    def loss(params, r, y):
        a, b, k = params
        waves = a * jaxbessel.j0(k * r) + jnp.exp(b) * jaxbessel.j1(k * r)
        return jnp.mean((waves + jaxbessel.bessel_jn(3, k * r)[2] - y) ** 2)

    return loss, np.float32([1, 0.2, 2.3]), uniform(6, low=0.1, high=4), normal(6, seed=1)
