"""Llama, and the families that differ from it in a layer: Mistral, Qwen2 and Qwen3."""

import math
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._layer import Layer
from fbp.combinators import On, Residual, Serial, Stack
from fbp.layers import (
    Attention,
    Dense,
    Embedding,
    MergeHeads,
    RMSNorm,
    Rope,
    SplitHeads,
    SwiGLU,
    Unembed,
)
from fbp.layers._rope_scaling import Scaling
from fbp.models._gpt2 import normal, require_heads
from fbp.ports import Tie

QK_NORMS = "q_norm", "k_norm"


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
    scaling: Scaling | None = None,
    window: int | None = None,
    eps: float = 1e-5,
    attention_bias: bool = False,
    output_bias: bool | None = None,
    qk_norm: bool = False,
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
      output_bias: whether the one after attention has one; as `attention_bias` by default.
      qk_norm: whether queries and keys are normalized, each head of them, before they are rotated.
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
    output_bias = attention_bias if output_bias is None else output_bias
    start, residual = normal(0.02), normal(0.02 / math.sqrt(2 * max(1, layers)))
    dtype = jnp.dtype(dtype)

    # Of x = (q, k, v) the first two.
    qk_norms: dict[str, Layer] = {
        name: On(i, RMSNorm(head_size, eps, dtype=dtype)) for i, name in enumerate(QK_NORMS)
    }
    attention = Serial(
        norm=RMSNorm(width, eps, dtype=dtype),
        qkv=Dense(
            *(width, (heads + 2 * kv_heads) * head_size, attention_bias), w_init=start, dtype=dtype
        ),
        split=SplitHeads(heads, kv_heads),
        **(qk_norms if qk_norm else {}),
        rope=Rope(base, scaling),
        attend=Attention(causal=True, window=window),
        merge=MergeHeads(),
        out=Dense(heads * head_size, width, output_bias, w_init=residual, dtype=dtype),
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


def mistral(*, window: int | None = 4096, **sizes: Any) -> Layer:
    """A `llama` whose queries see only the last `window` positions; None for all.

    Args:
      window: how many positions a query sees, its own among them.
      **sizes: the other arguments of `llama`.

    Source: Jiang et al., "Mistral 7B", arXiv:2310.06825, 2023.
    """
    return llama(window=window, **sizes)


def qwen2(**sizes: Any) -> Layer:
    """A `llama` with biases of queries, keys and values.

    Args:
      **sizes: the arguments of `llama`.

    Source: Yang et al., "Qwen2 Technical Report", arXiv:2407.10671, 2024.
    """
    return llama(**{"attention_bias": True, "output_bias": False, **sizes})


def qwen3(**sizes: Any) -> Layer:
    """A `llama` with a norm of each head's query and key.

    Args:
      **sizes: the arguments of `llama`.

    Source: Yang et al., "Qwen3 Technical Report", arXiv:2505.09388, 2025.
    """
    return llama(**{"qk_norm": True, **sizes})
