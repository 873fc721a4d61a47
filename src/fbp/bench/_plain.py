"""The same GPT in plain JAX, differentiated by autodiff."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fbp.bench._sizes import GPTSizes

_POLICIES = jax.checkpoint_policies
# What a block keeps for its backward; "all" is jax.grad without `jax.checkpoint`.
POLICIES = {
    "all": None,
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "every dot": _POLICIES.dots_saveable,
    "nothing": _POLICIES.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class PlainGPT:
    """A loss of params and batch, and its gradient by `jax.value_and_grad`.

    Attributes:
      sizes: of the model.
      dtype: of the arithmetic; parameters and the loss stay in float32.
      keeps: a key of POLICIES.
      attention: `implementation` of `jax.nn.dot_product_attention`.
      unrolled: whether blocks run one after the other instead of in a scan, with parameters from
        `unstacked`.
      chunk: how many tokens' logits are computed at a time, and again in the backward; its greatest
        common divisor with the number of tokens is used. None is all tokens.
    """

    sizes: GPTSizes
    dtype: Any = jnp.float32
    keeps: str = "all"
    attention: Any = None
    unrolled: bool = False
    chunk: int | None = None

    def value(self, params: Any, batch: Any, key: Any = None) -> Any:
        """The loss."""
        ids, labels = batch
        params = jax.tree.map(lambda a: a.astype(self.dtype), params)
        x = params["embed"]["w"][ids] + params["positions"]["w"]
        block = self.block
        if self.keeps != "all":
            block = jax.checkpoint(block, policy=POLICIES[self.keeps], prevent_cse=self.unrolled)
        if self.unrolled:
            for p in params["blocks"]:
                x, _ = block(x, p)
        else:
            x, _ = jax.lax.scan(block, x, params["blocks"])
        y = norm(params["norm"], x)

        def loss(y: Any, labels: Any) -> Any:
            logits = (y @ params["embed"]["w"].T).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

        if self.chunk is None:
            return loss(y, labels) / labels.size
        chunk = math.gcd(self.chunk, labels.size)
        parts = y.reshape(-1, chunk, y.shape[-1]), labels.reshape(-1, chunk)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return total + jax.checkpoint(loss, prevent_cse=False)(*part), None

        return jax.lax.scan(add, jnp.zeros(()), parts)[0] / labels.size

    def value_and_grad(self, params: Any, batch: Any, key: Any = None) -> Any:
        """The loss and its gradient."""
        return jax.value_and_grad(self.value)(params, batch)

    def block(self, x: Any, p: Any) -> tuple[Any, None]:
        """One block."""
        attention, feed_forward = p["attention"], p["feed_forward"]
        qkv = dense(attention["qkv"], norm(attention["norm"], x))
        q, k, v = (
            a.reshape(*a.shape[:-1], self.sizes.heads, -1) for a in jnp.split(qkv, 3, axis=-1)
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=self.attention)
        x = x + dense(attention["out"], y.reshape(x.shape))
        hidden = dense(feed_forward["up"], norm(feed_forward["norm"], x))
        return x + dense(feed_forward["down"], jax.nn.gelu(hidden)), None


def unstacked(params: Any) -> Any:
    """The same parameters, with a separate tree for each block."""
    leaves, tree = jax.tree.flatten(params["blocks"])
    blocks = tuple(jax.tree.unflatten(tree, block) for block in zip(*leaves, strict=True))
    return {**params, "blocks": blocks}


def norm(p: Any, x: Any) -> Any:
    """LayerNorm, in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    rms = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return ((centred * rms).astype(x.dtype)) * p["w"] + p["b"]


def dense(p: Any, x: Any) -> Any:
    """x w + b."""
    return x @ p["w"] + p["b"]
