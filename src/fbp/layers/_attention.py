"""Scaled dot-product attention."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Key, Layer, at_least_float32, name_of, require_float
from fbp._platform import on_cuda
from fbp.layers._attention_blocks import a_few_heads, causal_blocks
from fbp.layers._by_head import by_head, by_place, of_heads, queries_a_key


@dataclasses.dataclass(frozen=True)
class Attention(Layer):
    """Every query takes a mean of the values, weighted by how well their keys match it.

        s  = scale * q k^T,  then  cap * tanh(s / cap)  with a softcap
        p  = softmax(s) over the keys that the query may see, 0 for the others
        y  = p v

        dv = p^T dy
        dp = dy v^T
        ds = p * (dp - sum_keys(p * dp))               softmax's transposed Jacobian
             times 1 - (s / cap)^2 with a softcap      s here as capped
        dq = scale * ds k
        dk = scale * ds^T q

    Heads of queries that share a head of keys and values add up in dk and dv.

    p is as large as T times S and is not kept. `res` is lse = log sum exp(s), one number a query:
    p = exp(s - lse) is computed again from q and k. A query that may see no key at all has y = 0
    and all gradients 0.

    Causal queries are taken in a few blocks, each with no more keys than its last query may see,
    which leaves out most of what a mask would throw away. On a CPU heads are taken a few at a time,
    so that their scores do not leave its cache. A GPU that is alone does all this in the kernels of
    `_fused_attention.py`, for at most float32, heads of at most 128 and no mask. (`jax.export` does
    not write kernels.)

    Shapes: x = (q, k, v) or (q, k, v, mask): q (..., T, H, K), k (..., S, G, K), v (..., S, G, M),
    mask (..., S) of bools, true for keys that may be seen (padding is false). G divides H.
    y (..., T, H, M). With `causal`, S = T.

    Args:
      causal: whether a query sees only keys up to its own place.
      window: how many keys a causal query sees, its own the last; None for all.
      softcap: the cap, which keeps |s| below it; None for none.
      scale: of the scores; 1 / sqrt(K) by default.
      fused: whether a GPU may use kernels.

    Raises:
      ValueError: shapes do not match; G does not divide H; a window without `causal`.
      TypeError: q, k or v is not a float array, or the mask not one of bools.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; keeping lse alone is due to
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

    def forward(self, params: tuple[()], x: Any, key: Key = None) -> tuple[Array, Array]:
        q, k, v, mask = self._unpack(x)
        fused = self._fused(q, k, v, mask)
        if fused is None:
            y, lse = a_few_heads(self._attend, self.blocks(q, k), q, k, v, mask)
        else:
            y, lse = of_heads(on_cuda(fused.forward, self._attend), q, k, v)
        return by_place(y, x[0].shape[-2]).astype(v.dtype), lse

    def backward(
        self, params: tuple[()], x: Any, res: Array, dy: Array
    ) -> tuple[tuple[()], tuple[Any, ...]]:
        q, k, v, mask = self._unpack(x)
        lse, dy = res, by_head(dy, k.shape[-3])
        fused = self._fused(q, k, v, mask)
        if fused is None:
            grads = a_few_heads(self._gradients, self.blocks(q, k), q, k, v, lse, dy, mask)
        else:
            dy = dy.astype(v.dtype)
            grads = of_heads(on_cuda(fused.backward, self._gradients), q, k, v, lse, dy)
        pairs = zip(grads, x[:3], strict=True)
        dx = tuple(by_place(da, a.shape[-2]).astype(a.dtype) for da, a in pairs)
        return (), dx if mask is None else (*dx, None)

    def _attend(
        self, q: Array, k: Array, v: Array, mask: Array | None = None
    ) -> tuple[Array, Array]:
        ys, lses = [], []
        for rows, keys in self.blocks(q, k):
            s = self._scores(q, k, mask, rows, keys)
            top = lax.stop_gradient(s.max(-1, keepdims=True, initial=-jnp.inf))
            e = jnp.exp(s - jnp.where(top == -jnp.inf, 0, top))
            total = e.sum(-1, keepdims=True)
            sees_none = total == 0
            total = jnp.where(sees_none, 1, total)
            # exp(s - inf) = 0: where nothing is seen, p is 0 in the backward too.
            lses.append(jnp.where(sees_none, jnp.inf, top + jnp.log(total))[..., 0])
            # e v / total, not (e / total) v: y has mostly fewer numbers to divide than e.
            ys.append(_dot("ts,sm->tm", e.astype(v.dtype), v[..., keys, :]) / total)
        return jnp.concatenate(ys, -2), jnp.concatenate(lses, -1)

    def _gradients(
        self, q: Array, k: Array, v: Array, lse: Array, dy: Array, mask: Array | None = None
    ) -> tuple[Array, Array, Array]:
        dqs = []
        # By columns, (K, S): so no factor of their products has to be turned.
        q_columns, dy_columns = q.mT, dy.mT
        dk = jnp.zeros(k.mT.shape, at_least_float32(k).dtype)
        dv = jnp.zeros(v.mT.shape, at_least_float32(v).dtype)
        for rows, keys in self.blocks(q, k):
            s = self._scores(q, k, mask, rows, keys)
            p = jnp.exp(s - lse[..., rows, None])
            dv = dv.at[..., keys].add(_dot("mt,ts->ms", dy_columns[..., rows], p.astype(dy.dtype)))
            dp = _dot("tm,sm->ts", dy[..., rows, :], v[..., keys, :])
            ds = p * (dp - _sum_of_products(p, dp))
            if self.softcap is not None:
                # A score of -inf has p = 0, and ds with it.
                ds = ds * (1 - jnp.where(s == -jnp.inf, 0, s / self.softcap) ** 2)
            ds = (self._scale(q) * ds).astype(q.dtype)
            dqs.append(_dot("ts,sk->tk", ds, k[..., keys, :]))
            dk_part = _dot("kt,ts->ks", q_columns[..., rows], ds)
            dk = dk.at[..., keys].add(dk_part.astype(dk.dtype))
        return jnp.concatenate(dqs, -2), dk.mT, dv.mT

    def start(self, params: tuple[()], x: Any, length: int) -> tuple[Array, Array, Array]:
        if not self.causal or len(x) != 3:
            what = "causal=True and x = (q, k, v) to go one place at a time"
            raise ValueError(f"{name_of(self)}: expected {what}")
        _, k, v = x
        keys, values = (jnp.zeros((*a.shape[:-1], length, a.shape[-1]), a.dtype) for a in (k, v))
        return keys, values, jnp.zeros((), jnp.int32)

    def steps(self, params: tuple[()], x: Any, state: Any) -> tuple[Array, Any]:
        q, k, v, _ = self._unpack([jnp.moveaxis(a, 0, -3) for a in x])
        # Places to come are zeros that are not seen.
        keys, values, place = state
        keys = lax.dynamic_update_slice_in_dim(keys, k, place, -2)
        values = lax.dynamic_update_slice_in_dim(values, v, place, -2)
        places = place + jnp.arange(q.shape[-2]) // queries_a_key(q, k)
        behind = places[:, None] - jnp.arange(keys.shape[-2])
        s = jnp.where(self._sees(behind), self._capped(q, keys), -jnp.inf)
        y = _dot("ts,sm->tm", jax.nn.softmax(s).astype(v.dtype), values)
        y = jnp.moveaxis(by_place(y, x[0].shape[-2]), -3, 0).astype(v.dtype)
        return y, (keys, values, place + len(y))

    def _scale(self, q: Array) -> float:
        return q.shape[-1] ** -0.5 if self.scale is None else self.scale

    def _scores(self, q: Array, k: Array, mask: Array | None, rows: slice, keys: slice) -> Array:
        """s of a block of queries and a block of keys; -inf where a key may not be seen."""
        s = self._capped(q[..., rows, :], k[..., keys, :])
        if self.causal:
            places = jnp.arange(rows.start, rows.stop) // queries_a_key(q, k)
            behind = places[:, None] - jnp.arange(keys.start, keys.stop)
            s = jnp.where(self._sees(behind), s, -jnp.inf)
        if mask is not None:
            s = jnp.where(mask[..., None, keys], s, -jnp.inf)
        return s

    def _capped(self, q: Array, k: Array) -> Array:
        s = self._scale(q) * _dot("tk,sk->ts", q, k)
        return s if self.softcap is None else self.softcap * jnp.tanh(s / self.softcap)

    def _sees(self, behind: Array) -> Array:
        """Whether a causal query sees a key this many places behind it."""
        sees = behind >= 0
        return sees if self.window is None else sees & (behind < self.window)

    def blocks(self, q: Any, k: Any) -> list[tuple[slice, slice]]:
        """Which queries are taken together, and the keys they may see, by the shapes of q and k:
        (..., G, T R, K) and (..., G, S, K)."""
        if self.causal:
            return causal_blocks(k.shape[-2], self.window, queries_a_key(q, k))
        return [(slice(0, q.shape[-2]), slice(0, k.shape[-2]))]

    def _fused(self, q: Array, k: Array, v: Array, mask: Array | None) -> Any:
        """The kernels that take the place of all this on a GPU; None where they do not fit."""
        if not self.fused or jax.default_backend() != "gpu" or mask is not None:
            return None
        from fbp.layers._fused_attention import FusedAttention, fits  # here: it takes a while

        if not fits(q, k, v):
            return None
        each = queries_a_key(q, k) if self.causal else 1
        return FusedAttention(self._scale(q), each, self.causal, self.window, self.softcap)

    def _unpack(self, x: Any) -> tuple[Array, Array, Array, Array | None]:
        """q, k and v by heads of keys, and the mask of each."""
        if not isinstance(x, tuple | list) or len(x) not in (3, 4):
            got = f"{len(x)} arrays" if isinstance(x, tuple | list) else type(x).__name__
            raise ValueError(
                f"{name_of(self)}: expected x = (q, k, v) or (q, k, v, mask), got {got}"
            )
        q, k, v = x[:3]
        for name, a in zip("qkv", (q, k, v), strict=True):
            require_float(self, a, name)
        shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
        if (
            min(q.ndim, k.ndim, v.ndim) < 3
            or q.shape[-1] != k.shape[-1]
            or k.shape[:-1] != v.shape[:-1]
            or q.shape[:-3] != k.shape[:-3]
            or not q.shape[-1]
        ):
            raise ValueError(
                f"{name_of(self)}: expected q (..., T, H, K), k (..., S, G, K), v (..., S, G, M), "
                f"got {shapes}"
            )
        if not k.shape[-2] or not q.shape[-2] or q.shape[-2] % k.shape[-2]:
            raise ValueError(
                f"{name_of(self)}: expected heads of k to divide those of q, got {shapes}"
            )
        if self.causal and q.shape[-3] != k.shape[-3]:
            raise ValueError(
                f"{name_of(self)}: expected as many keys as causal queries, got {shapes}"
            )
        mask = x[3] if len(x) == 4 else None
        if mask is not None:
            if mask.dtype != bool:
                raise TypeError(f"{name_of(self)}: expected a mask of bools, got {mask.dtype}")
            if mask.shape != k.shape[:-2]:
                raise ValueError(
                    f"{name_of(self)}: expected a mask of shape {k.shape[:-2]}, got {mask.shape}"
                )
            mask = jnp.broadcast_to(mask[..., None, :], (*k.shape[:-3], k.shape[-2], k.shape[-3]))
        q, k, v = (by_head(a, k.shape[-2]) for a in (q, k, v))
        return q, k, v, mask


def _dot(axes: str, a: Array, b: Array) -> Array:
    """A product over batch axes, summed in at least float32."""
    left, right, out = axes.replace("->", ",").split(",")
    total = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    # einsum multiplies the last factor by the one before: so a's axes come first, as in `out`, and
    # nothing as large as scores has to be turned.
    return jnp.einsum(f"...{right},...{left}->...{out}", b, a, preferred_element_type=total)


def _sum_of_products(a: Array, b: Array) -> Array:
    """(a * b).sum(-1, keepdims=True), as a product: XLA's CPU has no fast sum of products."""
    return jnp.einsum("...s,...s->...", a, b, precision=lax.Precision.HIGHEST)[..., None]
