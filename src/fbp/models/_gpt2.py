"""GPT-2."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._layer import Layer
from fbp.combinators import Residual, Serial, Stack
from fbp.layers import (
    Attention,
    Dense,
    Dropout,
    Embedding,
    Gelu,
    LayerNorm,
    MergeHeads,
    Positions,
    SplitHeads,
    Unembed,
)
from fbp.ports import Tie


def gpt2(
    *,
    vocab: int,
    context: int,
    width: int,
    heads: int,
    layers: int,
    hidden: int | None = None,
    activation: Layer = Gelu(),  # noqa: B008
    eps: float = 1e-5,
    dropout: float = 0.0,
    embedding_dropout: float | None = None,
    tied: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Layer:
    """Ids (..., T) to logits (..., T, V): a causal transformer with a norm before each part.

        x = embed[ids] + positions
        x = x + out(attention(qkv(norm(x))))          `layers` times
        x = x + down(gelu(up(norm(x))))
        logits = norm(x) embed^T

    Weights start as GPT-2's: normal with standard deviation 0.02, and 0.02 / sqrt(2 layers) in the
    layers `out` and `down`, whose outputs are added to the residual stream.

    Args:
      vocab: V, the number of ids.
      context: the longest T.
      width: D, of the residual stream.
      heads: the number of attention heads; it divides the width.
      layers: the number of blocks.
      hidden: the width inside the feed-forward part; 4 D by default.
      activation: of the feed-forward part.
      eps: of the norms.
      dropout: the rate for each term added to the residual stream.
      embedding_dropout: the rate for the embedding; `dropout` by default.
      tied: whether the embedding's matrix is also the unembedding's.
      dtype: the dtype of the parameters.

    Raises:
      ValueError: heads do not divide the width.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    require_heads("gpt2", heads, width)
    start, residual = normal(0.02), normal(0.02 / math.sqrt(2 * max(1, layers)))
    dtype = jnp.dtype(dtype)
    hidden = 4 * width if hidden is None else hidden

    def dense(n_in: int, n_out: int, w_init: jax.nn.initializers.Initializer = start) -> Dense:
        return Dense(n_in, n_out, w_init=w_init, dtype=dtype)

    def norm() -> LayerNorm:
        return LayerNorm(width, eps, dtype=dtype)

    def drop(rate: float) -> dict[str, Layer]:
        return {"dropout": Dropout(rate)} if rate else {}

    attention = Serial(
        norm=norm(),
        qkv=dense(width, 3 * width),
        split=SplitHeads(heads),
        attend=Attention(causal=True),
        merge=MergeHeads(),
        out=dense(width, width, residual),
        **drop(dropout),
    )
    feed_forward = Serial(
        norm=norm(),
        up=dense(width, hidden),
        activation=activation,
        down=dense(hidden, width, residual),
        **drop(dropout),
    )
    block = Serial(attention=Residual(attention), feed_forward=Residual(feed_forward))
    model = Serial(
        embed=Embedding(vocab, width, dtype=dtype),
        positions=Positions(context, width, dtype=dtype),
        **drop(dropout if embedding_dropout is None else embedding_dropout),
        blocks=Stack(block, layers),
        norm=norm(),
        unembed=Unembed(width, vocab, dtype=dtype),
    )
    return Tie(model, "embed.w", "unembed.w") if tied else model


@functools.cache
def normal(std: float) -> jax.nn.initializers.Initializer:
    """An initializer, the same object for the same std, so that equal models compare equal."""
    return jax.nn.initializers.normal(std)


def require_heads(model: str, heads: int, width: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if heads < 1 or width % heads:
        raise ValueError(f"{model}: expected heads to divide the width, got {heads} of {width}")
