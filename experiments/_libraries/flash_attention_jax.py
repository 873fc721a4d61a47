"""Attention in blocks by flash_attention_jax."""

import jax
import jax.numpy as jnp
import numpy as np
from flash_attention_jax import causal_flash_attention, flash_attention

from _libraries._cases import audit, check, normal

QKV = [normal(1, 2, 8, 4, seed=seed) for seed in range(3)]
SEEN = np.arange(8)[None] < 6

check("flash_attention", lambda q, k, v: flash_attention(q, k, v, jnp.ones((1, 8), bool)), *QKV)
check("flash_attention_masked", lambda q, k, v: flash_attention(q, k, v, SEEN), *QKV)
check("causal_flash_attention", causal_flash_attention, *QKV)


@audit
def transformer_block():
    def loss(params, x):
        q, k, v = ((x @ params[name]).reshape(1, 6, 2, 4).transpose(0, 2, 1, 3) for name in "qkv")
        y = causal_flash_attention(q, k, v).transpose(0, 2, 1, 3).reshape(1, 6, 8)
        return jnp.mean(jax.nn.relu(y @ params["out"]) ** 2)

    params = {name: normal(8, 8, seed=i) for i, name in enumerate(["q", "k", "v", "out"])}
    return loss, params, normal(1, 6, 8, seed=5)
