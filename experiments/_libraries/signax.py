"""Signatures of paths by signax."""

import jax
import jax.numpy as jnp
import signax

from _libraries._cases import audit, normal


@audit
def log_signature():
    def loss(w, path):
        return jnp.sum(signax.logsignature(jax.nn.relu(path @ w), 3) ** 2)

    return loss, normal(3, 2), normal(6, 3, seed=1)
