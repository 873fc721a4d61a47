"""Sampling with gradients through blackjax."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from _libraries._cases import audit, normal


@audit
def step_of_hamiltonian_monte_carlo():
    def loss(params, x, y):
        def log_density(w):
            likely = -jnp.sum(jax.nn.softplus(-y * (x @ w)))
            return likely - 0.5 * jnp.sum(w**2) * jnp.exp(params["decay"])

        sampler = blackjax.hmc(log_density, jnp.exp(params["step"]), jnp.ones(3), 3)
        state, _ = sampler.step(jax.random.key(0), sampler.init(params["w"]))
        return -state.logdensity

    params = {"decay": np.float32(0), "step": np.float32(-2), "w": normal(3)}
    return loss, params, normal(6, 3, seed=1), np.sign(normal(6, seed=2))
