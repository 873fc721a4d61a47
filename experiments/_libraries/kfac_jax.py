"""Networks whose losses are registered with kfac_jax."""

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

from _libraries._cases import audit, normal


@audit
def classifier():
    def loss(params, x, labels):
        logits = jax.nn.relu(x @ params["w"]) @ params["v"]
        kfac_jax.register_softmax_cross_entropy_loss(logits, labels)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 3), -1))

    params = {"w": normal(4, 5), "v": normal(5, 3)}
    return loss, params, normal(6, 4, seed=1), np.array([0, 1, 2, 0, 1, 2])
