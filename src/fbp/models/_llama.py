"""Llama."""

import math

import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._layer import Layer
from fbp.combinators import Residual, Serial, Stack
from fbp.layers import (
    Attention,
    Dense,
    Embedding,
    Llama3Scaling,
    MergeHeads,
    RMSNorm,
    Rope,
    SplitHeads,
    SwiGLU,
    Unembed,
)
from fbp.models._gpt2 import normal, require_heads
from fbp.ports import Tie


def llama(
    *,
    vocab: int,
    width: int,
    heads: int,
    layers: int,
    hidden: int,
    kv_heads: int | None = None,
    head_size: int | None = None,
    base: float = 10_000.0,
    scaling: Llama3Scaling | None = None,
    window: int | None = None,
    eps: float = 1e-5,
    attention_bias: bool = False,
    feed_forward_bias: bool = False,
    tied: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Layer:
    """Ids (..., T) to logits (..., T, V): a causal transformer with Rope, grouped queries, SwiGLU.

        x = embed[ids]
        x = x + out(attention(rope(qkv(norm(x)))))        `layers` times
        x = x + down(swiglu(up(norm(x))))
        logits = norm(x) unembed^T

    Args:
      vocab: V, the number of ids.
      width: D, of the residual stream.
      heads: the number of query heads.
      layers: the number of blocks.
      hidden: the width inside the feed-forward part.
      kv_heads: the number of key and value heads, which divides `heads`; `heads` by default.
      head_size: K; width / heads by default.
      base: of the rotary positions.
      scaling: of their frequencies.
      window: how many positions a query sees; None for all up to its own.
      eps: of the norms.
      attention_bias: whether the dense layers around attention have biases.
      feed_forward_bias: whether the dense layers of the feed-forward part have biases.
      tied: whether the embedding's matrix is also the unembedding's.
      dtype: the dtype of the parameters.

    Raises:
      ValueError: head_size is not given and heads do not divide the width; or kv_heads do not
        divide heads.

    Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023.
    """
    if head_size is None:
        require_heads("llama", heads, width)
        head_size = width // heads
    kv_heads = heads if kv_heads is None else kv_heads
    start, residual = normal(0.02), normal(0.02 / math.sqrt(2 * max(1, layers)))
    dtype = jnp.dtype(dtype)

    attention = Serial(
        norm=RMSNorm(width, eps, dtype=dtype),
        qkv=Dense(
            *(width, (heads + 2 * kv_heads) * head_size, attention_bias), w_init=start, dtype=dtype
        ),
        split=SplitHeads(heads, kv_heads),
        rope=Rope(base, scaling),
        attend=Attention(causal=True, window=window),
        merge=MergeHeads(),
        out=Dense(heads * head_size, width, attention_bias, w_init=residual, dtype=dtype),
    )
    feed_forward = Serial(
        norm=RMSNorm(width, eps, dtype=dtype),
        up=Dense(width, 2 * hidden, feed_forward_bias, w_init=start, dtype=dtype),
        gate=SwiGLU(),
        down=Dense(hidden, width, feed_forward_bias, w_init=residual, dtype=dtype),
    )
    block = Serial(attention=Residual(attention), feed_forward=Residual(feed_forward))
    model = Serial(
        embed=Embedding(vocab, width, dtype=dtype),
        blocks=Stack(block, layers),
        norm=RMSNorm(width, eps, dtype=dtype),
        unembed=Unembed(width, vocab, dtype=dtype),
    )
    return Tie(model, "embed.w", "unembed.w") if tied else model
