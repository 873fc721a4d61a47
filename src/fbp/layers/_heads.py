"""SplitHeads and MergeHeads: reshapes before and after attention."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float

# Queries (..., T, H, K), keys (..., T, G, K) and values (..., T, G, K).
Qkv = tuple[Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class SplitHeads(Layer):
    """Splits a vector into queries, keys and values, and each of these into heads.

        q, k, v = x split into H K, G K and G K numbers
        dx      = (dq, dk, dv) concatenated

    With `packed=False` x is only one of the three, as in attention to another sequence, where the
    queries come from elsewhere than the keys and values: y is x, and dx is dy reshaped.

    Shapes: x (..., (H + 2 G) K), q (..., H, K), k and v (..., G, K). With `packed=False`
    x (..., H K), y (..., H, K).

    Args:
      heads: H, the number of query heads.
      kv_heads: G, the number of key and value heads, each shared by H / G query heads; by default
        H.
      packed: whether x holds queries, keys and values; or else only one of them, of `heads` heads.

    Raises:
      ValueError: H + 2 G, or H of one, does not divide the last axis of x; kv_heads does not divide
        heads, or is given for one.
      TypeError: x is not a float array.
    """

    heads: int
    kv_heads: int | None = None
    packed: bool = True
    cheap = True

    def __post_init__(self) -> None:
        groups = self.heads if self.kv_heads is None else self.kv_heads
        if self.heads < 1 or groups < 1 or self.heads % groups:
            raise ValueError(
                f"{name_of(self)}: expected kv_heads to divide heads, got {groups} of {self.heads}"
            )
        if not (self.packed or self.kv_heads is None):
            raise ValueError(
                f"{name_of(self)}: expected no kv_heads with packed=False, got {self.kv_heads}: "
                "split keys and values by layers of their own"
            )

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Qkv | Array, Any]:
        require_float(self, x)
        groups = self.kv_heads or self.heads
        total = self.heads + 2 * groups if self.packed else self.heads
        if not x.ndim or x.shape[-1] % total:
            raise ValueError(
                f"{name_of(self)}: expected last axis of x to be a multiple of {total} heads, "
                f"got shape {x.shape}"
            )
        x = x.reshape(*x.shape[:-1], total, x.shape[-1] // total)
        if not self.packed:
            return x, ()
        q, k, v = jnp.split(x, (self.heads, self.heads + groups), -2)
        return (q, k, v), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Any) -> tuple[Any, Array]:
        dx = jnp.concatenate(dy, -2) if self.packed else dy
        return (), dx.reshape(x.shape).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class MergeHeads(Layer):
    """Concatenates the heads: y is x with its last two axes merged, dx is dy reshaped.

    Shapes: x (..., H, K), y (..., H K). Raises ValueError when x has fewer than two axes,
    TypeError when it is not a float array.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        if x.ndim < 2:
            raise ValueError(f"{name_of(self)}: expected x (..., H, K), got shape {x.shape}")
        return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        return (), dy.reshape(x.shape).astype(x.dtype)
