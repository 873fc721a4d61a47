"""Power spectra of jax_cosmo."""

import jax.numpy as jnp
import jax_cosmo
import numpy as np

from _libraries._cases import audit


@audit
def matter_power():
    def loss(params, k):
        cosmology = jax_cosmo.Planck15(Omega_c=params[0], sigma8=params[1])
        return jnp.sum(jnp.log(jax_cosmo.power.linear_matter_power(cosmology, k)))

    return loss, np.float32([0.26, 0.81]), np.logspace(-2, 0, 4, dtype=np.float32)
