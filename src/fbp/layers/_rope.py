"""Rotary position embedding: queries and keys are rotated by angles that depend on position."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float
from fbp.layers._heads import Qkv
from fbp.layers._rope_scaling import Scaling


@dataclasses.dataclass(frozen=True)
class Rope(Layer):
    """Rotates queries and keys by angles that grow with position; values are unchanged.

        (a, b) = the two halves of q's last axis,      angle_ti = t * base^(-2 i / K)
        y  = (a cos - b sin, b cos + a sin)            rotation by the angle
        dq = (da cos + db sin, db cos - da sin)        its transpose, which is its inverse

    and likewise for k. The product of a query with a key then depends only on the distance between
    their positions. y is linear in x, so the backward needs only the positions. A scaling may have
    a magnitude, a factor of y, and so of dq and dk.

    Shapes: x = (q, k, v), q (..., T, H, K), k and v (..., T, G, K), K even. y as x.

    Args:
      base: the lowest frequency completes one turn in about 2 pi * base positions.
      scaling: changes the frequencies: `Llama3Scaling`, `LinearScaling`, `DynamicScaling`,
        `YarnScaling` or `LongRopeScaling`.

    Raises:
      ValueError: q or k has fewer than 3 axes, or an odd K.
      TypeError: q or k is not a float array.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    arXiv:2104.09864, 2021; pairs are taken from the two halves, not from adjacent numbers, as in
    Llama's published weights.
    """

    base: float = 10_000.0
    scaling: Scaling | None = None
    cheap = True

    def forward(self, params: tuple[()], x: Qkv, key: Key = None) -> tuple[Qkv, Any]:
        q, k, v = x
        for name, a in (("q", q), ("k", k)):
            require_float(self, a, name)
            if a.ndim < 3 or a.shape[-1] % 2:
                raise ValueError(
                    f"{name_of(self)}: expected {name} (..., T, H, K) with an even K, "
                    f"got shape {a.shape}"
                )
        return (self._turn(q, 1), self._turn(k, 1), v), ()

    def backward(self, params: tuple[()], x: Qkv, res: Any, dy: Qkv) -> tuple[Any, Qkv]:
        dq, dk, dv = dy
        q, k, v = x
        dq, dk = self._turn(dq, -1), self._turn(dk, -1)
        return (), (dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype))

    def start(self, params: tuple[()], x: Qkv, length: int) -> tuple[Array, Array, Array]:
        angles = self.angles(length, x[0].shape[-1])
        wide = jnp.promote_types(x[0].dtype, jnp.float32)
        cos, sin = (jnp.asarray(self._magnitude * f(angles), wide) for f in (np.cos, np.sin))
        return cos, sin, jnp.zeros((), jnp.int32)

    def steps(
        self, params: tuple[()], x: Qkv, state: tuple[Array, Array, Array]
    ) -> tuple[Qkv, tuple[Array, Array, Array]]:
        q, k, v = x
        cos, sin, place = state
        # At a position, the angles are the same for all heads and all of the batch.
        here = len(q), *(1,) * (q.ndim - 2), -1
        c, s = (lax.dynamic_slice_in_dim(a, place, len(q)).reshape(here) for a in (cos, sin))
        q, k = (turned(at_least_float32(a), c, s).astype(a.dtype) for a in (q, k))
        return (q, k, v), (cos, sin, place + len(q))

    def angles(self, length: int, size: int) -> np.ndarray:
        """Returns the angles of positions 0..length-1 for heads of this size: (length, size / 2).

        Computed in float64 at trace time: in float32 the angle of position 10,000 is off by 1e-3.
        """
        frequencies = self.base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
        if self.scaling is not None:
            frequencies = self.scaling(frequencies, length)
        return np.arange(length, dtype=np.float64)[:, None] * frequencies

    def _turn(self, x: Array, sign: int) -> Array:
        wide = at_least_float32(x)
        angles = self.angles(x.shape[-3], x.shape[-1])
        # At a position, the angles are the same for all heads.
        cos = jnp.asarray(self._magnitude * np.cos(angles)[:, None, :], wide.dtype)
        sin = jnp.asarray(self._magnitude * sign * np.sin(angles)[:, None, :], wide.dtype)
        return turned(wide, cos, sin).astype(x.dtype)

    @property
    def _magnitude(self) -> float:
        return 1.0 if self.scaling is None else self.scaling.magnitude


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Returns x with each pair (a, b), taken from its two halves, rotated by its angle."""
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
