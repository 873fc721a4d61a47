"""Scaled dot-product attention."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Key, Layer, name_of
from fbp._schedules import attention as schedule
from fbp._schedules.attention import Places
from fbp._schedules.heads import by_head, by_place, queries_a_key
from fbp._schedules.sums import Sums
from fbp.layers._attention_inputs import unpacked


@dataclasses.dataclass(frozen=True)
class Attention(Layer):
    """For each query, the mean of the values, weighted by how well their keys match the query.

        s  = scale * q k^T,  then  cap * tanh(s / cap)  with a softcap
        p  = softmax(s) over the keys that the query may see, 0 for all others
        y  = p v

        dv = p^T dy
        dp = dy v^T
        ds = p * (dp - sum_keys(p * dp))               softmax's transposed Jacobian
             times 1 - (s / cap)^2 with a softcap      s: the capped scores
        dq = scale * ds k
        dk = scale * ds^T q

    dk and dv are summed over the query heads that share a head of keys and values.

    p has T x S numbers per head and is not kept. `res` is two numbers per query, top = max(s) and
    part = 1 / sum exp(s - top): p = exp(s - top) * part is recomputed from q and k. Their logarithm
    lse = top - log(part) in one number would be rounded at the size of s; with scores of 1,000, p
    would sum to 1 only within 1e-4, and a mean of keys that ds should cancel would stay in dq. A
    query that may see no key at all has y = 0 and all gradients 0.

    `fbp/_schedules/attention.py` decides which queries and heads are computed together, and when
    GPU kernels replace the code below.

    Shapes: x = (q, k, v) or (q, k, v, mask): q (..., T, H, K), k (..., S, G, K), v (..., S, G, M),
    mask (..., S) of bools, True for keys that may be seen, False for padding; or of integers, the
    number of the document that each place is of, and a query sees the keys of its own document
    alone. G divides H. y (..., T, H, M). With `causal`, or a mask of integers, S = T.

    Args:
      causal: whether a query sees only keys up to its own position.
      window: number of keys that a causal query sees, the last at its own position; None for all.
      softcap: bound on |s|, the cap; None for no bound.
      scale: factor of the scores; 1 / sqrt(K) by default.
      fused: whether to use kernels on a GPU.

    Raises:
      ValueError: shapes do not match; G does not divide H; a window without `causal`.
      TypeError: q, k or v is not a float array, or the mask is not of bools or integers.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; recomputing p is due to
    Rabe and Staats, arXiv:2112.05682, and Dao et al., "FlashAttention", NeurIPS 2022.
    """

    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    fused: bool = True

    def __post_init__(self) -> None:
        if self.window is not None and not (self.causal and self.window > 0):
            raise ValueError(
                f"{name_of(self)}: expected a window of 1 or more with causal=True, "
                f"got window={self.window}, causal={self.causal}"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"{name_of(self)}: expected softcap above 0, got {self.softcap}")

    def forward(self, params: tuple[()], x: Any, key: Key = None) -> tuple[Array, Sums]:
        q, k, v, mask = unpacked(self, x)
        y, sums = schedule.attend(self, self._attend, q, k, v, mask)
        return by_place(y, x[0].shape[-2]).astype(v.dtype), sums

    def backward(
        self, params: tuple[()], x: Any, res: Sums, dy: Array
    ) -> tuple[tuple[()], tuple[Any, ...]]:
        q, k, v, mask = unpacked(self, x)
        dy = by_head(dy, k.shape[-3])
        grads = schedule.gradients(self, self._gradients, q, k, v, mask, res, dy)
        pairs = zip(grads, x[:3], strict=True)
        dx = tuple(by_place(da, a.shape[-2]).astype(a.dtype) for da, a in pairs)
        return (), dx if mask is None else (*dx, None)

    def _attend(self, q: Array, k: Array, v: Array, places: Places) -> tuple[Array, Sums]:
        """Returns y and the sums of a block: some queries and all keys that they may see."""
        s = self._scores(q, k, places)
        top = lax.stop_gradient(s.max(-1, keepdims=True, initial=-jnp.inf))
        e = jnp.exp(s - jnp.where(top == -jnp.inf, 0, top))
        total = e.sum(-1, keepdims=True)
        sees_none = total == 0
        total = jnp.where(sees_none, 1, total)
        # exp(s - inf) = 0: for a query that sees no key, p is 0 in the backward too.
        sums = Sums(jnp.where(sees_none, jnp.inf, top)[..., 0], (1 / total)[..., 0])
        # e v / total, not (e / total) v: y usually has fewer numbers to divide than e.
        return _product(e.astype(v.dtype), v) / total, sums

    def _gradients(
        self, q: Array, k: Array, v: Array, places: Places, sums: Sums, dy: Array
    ) -> tuple[Array, Array, Array]:
        """Returns dq of a block, and its contribution to dk and dv."""
        s = self._scores(q, k, places)
        p = jnp.exp(s - sums.top[..., None]) * sums.part[..., None]
        dv = _product(p.mT.astype(dy.dtype), dy)
        dp = _product(dy, v.mT)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        if self.softcap is not None:
            # A score of -inf has p = 0, hence ds = 0.
            ds = ds * (1 - jnp.where(s == -jnp.inf, 0, s / self.softcap) ** 2)
        ds = (self.scale_of(q) * ds).astype(q.dtype)
        dq = _product(ds, k)
        dk = _product(ds.mT, q)
        return dq, dk, dv

    def _scores(self, q: Array, k: Array, places: Places) -> Array:
        """Returns s, -inf where a query does not see a key."""
        s = self.scale_of(q) * _product(q, k.mT)
        if self.softcap is not None:
            s = self.softcap * jnp.tanh(s / self.softcap)
        if self.causal:
            behind = places.queries[:, None] - places.keys
            sees = behind >= 0
            if self.window is not None:
                sees &= behind < self.window
            s = jnp.where(sees, s, -jnp.inf)
        if places.mask is not None:
            sees = places.mask[..., None, :]
            if places.documents is not None:
                sees = sees == places.documents[..., None]
            s = jnp.where(sees, s, -jnp.inf)
        return s

    def scale_of(self, q: Array) -> float:
        return q.shape[-1] ** -0.5 if self.scale is None else self.scale

    def start(self, params: tuple[()], x: Any, length: int) -> tuple[Array, Array, Array]:
        if not self.causal or len(x) != 3:
            what = "causal=True and x = (q, k, v) to go one place at a time"
            raise ValueError(f"{name_of(self)}: expected {what}")
        _, k, v = x
        keys, values = (jnp.zeros((*a.shape[:-1], length, a.shape[-1]), a.dtype) for a in (k, v))
        return keys, values, jnp.zeros((), jnp.int32)

    def steps(self, params: tuple[()], x: Any, state: Any) -> tuple[Array, Any]:
        q, k, v, _ = unpacked(self, [jnp.moveaxis(a, 0, -3) for a in x])
        # Later positions hold zeros, which no query sees.
        keys, values, place = state
        keys = lax.dynamic_update_slice_in_dim(keys, k, place, -2)
        values = lax.dynamic_update_slice_in_dim(values, v, place, -2)
        queries = place + jnp.arange(q.shape[-2]) // queries_a_key(q, k)
        y, _ = self._attend(q, keys, values, Places(queries, jnp.arange(keys.shape[-2])))
        y = jnp.moveaxis(by_place(y, x[0].shape[-2]), -3, 0).astype(v.dtype)
        return y, (keys, values, place + len(y))


def _product(a: Array, b: Array) -> Array:
    """The matrix product a b, summed in at least float32."""
    total = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=total)
