"""SwiGLU, the gate of a feed-forward layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class SwiGLU(Layer):
    """Multiplies one half of a vector by SiLU of the other half.

        (a, b) = the two halves of the last axis of x
        y  = s(a) * b,     s(a) = a * sigmoid(a)
        da = dy * b * sigmoid(a) * (1 + a * (1 - sigmoid(a)))
        db = dy * s(a)
        dx = (da, db)

    A gated feed-forward layer is `Serial(up=Dense(D, 2 * F), gate=SwiGLU(), down=Dense(F, D))`:
    one matrix computes both halves. Cheap: y is recomputed, not kept.

    Shapes: x (..., 2 F), y (..., F).

    Raises:
      ValueError: the size of the last axis of x is odd.
      TypeError: x is not a float array.

    Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, 2020.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        if not x.ndim or x.shape[-1] % 2:
            raise ValueError(
                f"{name_of(self)}: expected last axis of x to be even, got shape {x.shape}"
            )
        a, b = jnp.split(at_least_float32(x), 2, -1)
        return (a * jax.nn.sigmoid(a) * b).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        a, b = jnp.split(at_least_float32(x), 2, -1)
        s = jax.nn.sigmoid(a)
        da = dy * b * s * (1 + a * (1 - s))
        db = dy * a * s
        return (), jnp.concatenate([da, db], -1).astype(x.dtype)
