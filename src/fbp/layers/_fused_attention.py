"""Attention as kernels of a GPU, forward and backward: its scores never leave the chip.

A program of a kernel takes one block of queries past all keys that they see, or one block of keys
past all queries that see them:

    attend        y = sum_keys exp(s - top) v, scaled again whenever top, the maximum, grows;
                  divided by total = sum_keys exp(s - top);  lse = top + log total
    by queries    p = exp(s - lse),  dp = dy v^T,  D = sum_keys p dp,  and past the keys once more
                  dq = scale * sum_keys p (dp - D) k
    by keys       dv = sum_queries p dy,  dk = scale * sum_queries p (dp - D) q

Source: Dao et al., "FlashAttention", NeurIPS 2022, and Dao, "FlashAttention-2", ICLR 2024. They
have D = y dy from y, which they keep; here it is summed from the scores, and lse alone is kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fbp._layer import Array, at_least_float32

# Queries and keys in a block: of those tried on an H200 in bfloat16 the fastest in each kernel.
_BLOCK = 64
_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)
# GPUs whose blocks have more than 100 KiB of memory: A100, H100 and H200, B200.
_LARGE = ("8.0", "9.0", "10.0")


def fits(q: Array, k: Array, v: Array) -> bool:
    """Whether the kernels are for such arrays, on the GPU that is here."""
    # Shapes may be symbolic.
    sizes = (*q.shape, *k.shape, v.shape[-1])
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype not in _DTYPES:
        return False
    # Of several devices each has its own heads.
    if jax.device_count() > 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return False
    # Triton needs an Ampere, and wide heads the memory of the larger chips.
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    width = max(q.shape[-1], v.shape[-1])
    is_wide = width * q.dtype.itemsize > 128
    return width <= 128 and float(capability) >= 8 and (not is_wide or capability in _LARGE)


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """Attention of heads of keys, each with R queries a place, neighbours of one another.

    Shapes: q (N, T R, K), k (N, S, K), v (N, S, M); y and dy (N, T R, M), lse (N, T R).

    Attributes:
      scale: of the scores.
      each: R, which places are told by; 1 where they do not matter.
      causal: whether a query sees only keys up to its own place; then S = T.
      window: how many keys it sees then, its own the last; None for all.
      softcap: the cap of the scores; None for none.
      interpret: whether to run the kernels without a GPU, slowly.
    """

    scale: float
    each: int = 1
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    interpret: bool = False

    def forward(self, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        """y and lse."""
        whole = [_padded(a) for a in (q, k, v)]
        rows = whole[0].shape[:2]
        y = jax.ShapeDtypeStruct((*rows, whole[2].shape[2]), v.dtype)
        lse = jax.ShapeDtypeStruct(rows, at_least_float32(q).dtype)
        y, lse = _Blocks(self, k.shape[1]).run(_attend, "q__", whole, "qq", (y, lse))
        return y[:, : q.shape[1], : v.shape[2]], lse[:, : q.shape[1]]

    def backward(
        self, q: Array, k: Array, v: Array, lse: Array, dy: Array
    ) -> tuple[Array, Array, Array]:
        """dq, dk and dv."""
        of = _Blocks(self, k.shape[1])
        whole = [_padded(a) for a in (q, k, v, lse, dy)]
        dq, d = of.run(_by_queries, "q__qq", whole, "qq", (whole[0], whole[3]))
        dk, dv = of.run(_by_keys, "_kk___", [*whole, d], "kk", whole[1:3])
        grads = zip((dq, dk, dv), (q, k, v), strict=True)
        dq, dk, dv = (da[:, : a.shape[1], : a.shape[2]] for da, a in grads)
        return dq, dk, dv


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Blocks of queries and keys, and which of them see one another."""

    how: FusedAttention
    n_keys: int
    queries: int = _BLOCK
    keys: int = _BLOCK

    def run(
        self,
        kernel: Callable[..., None],
        ins: str,
        arrays: Sequence[Array],
        outs: str,
        shapes: Sequence[Any],
    ) -> Any:
        """Runs a kernel. A letter for each array says what a program has of it: a block of queries
        ("q"), one of keys ("k"), or all ("_")."""
        rows, keys = arrays[0].shape[1], arrays[1].shape[1]
        # Wide heads fill the chip's memory sooner.
        width = max(a.shape[2] * a.dtype.itemsize for a in arrays[:3])
        block = min(_BLOCK, max(16, 2**14 // width))
        of = dataclasses.replace(self, queries=min(block, rows), keys=min(block, keys))
        sizes = {"q": of.queries, "k": of.keys}

        def spec(along: str, a: Any) -> pl.BlockSpec:
            block = (None, sizes.get(along, a.shape[1]), *a.shape[2:])
            rest = (0,) * (a.ndim - 2)
            return pl.BlockSpec(block, lambda n, i: (n, i if along in sizes else 0, *rest))

        return pl.pallas_call(
            functools.partial(kernel, of),
            grid=(len(arrays[0]), rows // of.queries if outs[0] == "q" else keys // of.keys),
            in_specs=[spec(*pair) for pair in zip(ins, arrays, strict=True)],
            out_specs=[spec(*pair) for pair in zip(outs, shapes, strict=True)],
            out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in shapes],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=3 if width <= 128 else 2),
            interpret=self.how.interpret,
            name=kernel.__name__.strip("_"),
        )(*arrays)

    def scores(self, q: Array, k: Array, i: Array, j: Array) -> Array:
        """s of block i of queries and block j of keys."""
        how = self.how
        s = how.scale * triton.dot(q, k, trans_b=True)
        if how.softcap is not None:
            s = how.softcap * jnp.tanh(s / how.softcap)
        key = j * self.keys + lax.iota(jnp.int32, self.keys)
        sees = (key < self.n_keys)[None, :]
        if how.causal:
            row = i * self.queries + lax.iota(jnp.int32, self.queries)
            place = _quotient(row, how.each)
            behind = place[:, None] - key[None, :]
            sees &= behind >= 0
            if self.window is not None:
                sees &= behind < self.window
        return jnp.where(sees, s, _unseen(s.dtype))

    def dscores(self, s: Array, p: Array, dp: Array, d: Array) -> Array:
        """ds times the scale, what dq and dk are made of."""
        ds = p * (dp - d[:, None])
        if self.how.softcap is not None:
            ds = ds * (1 - jnp.where(s == _unseen(s.dtype), 0, s / self.how.softcap) ** 2)
        return self.how.scale * ds

    @property
    def window(self) -> int | None:
        """The window, no wider than all keys, so that sums with it stay in int32."""
        return None if self.how.window is None else min(self.how.window, self.n_keys)

    def keys_of(self, i: Array) -> tuple[Any, Any]:
        """The first of the blocks of keys that block i of queries sees, and the one after them."""
        after = pl.cdiv(self.n_keys, self.keys)
        if not self.how.causal:
            return 0, after
        first = _quotient(i * self.queries, self.how.each)
        last = _quotient((i + 1) * self.queries - 1, self.how.each)
        start: Any = 0
        if self.window is not None:
            start = _quotient(jnp.maximum(first - self.window + 1, 0), self.keys)
        return start, jnp.minimum(_quotient(last, self.keys) + 1, after)

    def queries_of(self, j: Array, rows: int) -> tuple[Any, Any]:
        """The first of the blocks of queries that see block j of keys, and the one after them."""
        after = rows // self.queries
        if not self.how.causal:
            return 0, after
        start = _quotient(j * self.keys * self.how.each, self.queries)
        if self.window is None:
            return start, after
        last = ((j + 1) * self.keys + self.window - 1) * self.how.each - 1
        return start, jnp.minimum(_quotient(last, self.queries) + 1, after)


# The kernels. A `ref` of theirs is of a block where `run` was told so, and else of all.


def _attend(of: _Blocks, q_ref: Any, k_ref: Any, v_ref: Any, y_ref: Any, lse_ref: Any) -> None:
    i, q = pl.program_id(1), q_ref[...]

    def past(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, y = carry
        here = pl.ds(j * of.keys, of.keys)
        k, v = k_ref[here, :], v_ref[here, :]
        s = of.scores(q, k, i, j)
        higher = jnp.maximum(top, s.max(1))
        e, shrinks = jnp.exp(s - higher[:, None]), jnp.exp(top - higher)
        y = shrinks[:, None] * y + triton.dot(e.astype(v.dtype), v)
        return higher, shrinks * total + e.sum(1), y

    wide = lse_ref.dtype
    start = (
        jnp.full(of.queries, _unseen(wide), wide),
        jnp.zeros(of.queries, wide),
        jnp.zeros(y_ref.shape, wide),
    )
    top, total, y = lax.fori_loop(*of.keys_of(i), past, start)
    y_ref[...] = (y / total[:, None]).astype(y_ref.dtype)
    lse_ref[...] = top + jnp.log(total)


def _by_queries(of: _Blocks, *refs: Any) -> None:
    q_ref, k_ref, v_ref, lse_ref, dy_ref, dq_ref, d_ref = refs
    i, q, lse, dy = pl.program_id(1), q_ref[...], lse_ref[...], dy_ref[...]

    def at(j: Array) -> tuple[Array, Array, Array, Array]:
        here = pl.ds(j * of.keys, of.keys)
        k, v = k_ref[here, :], v_ref[here, :]
        s = of.scores(q, k, i, j)
        return k, s, jnp.exp(s - lse[:, None]), triton.dot(dy, v, trans_b=True)

    def sum_up(j: Array, d: Array) -> Array:
        _, _, p, dp = at(j)
        return d + (p * dp).sum(1)

    def past(j: Array, dq: Array) -> Array:
        k, s, p, dp = at(j)
        return dq + triton.dot(of.dscores(s, p, dp, d).astype(k.dtype), k)

    d = lax.fori_loop(*of.keys_of(i), sum_up, jnp.zeros_like(lse))
    dq = lax.fori_loop(*of.keys_of(i), past, jnp.zeros(q.shape, lse.dtype))
    dq_ref[...] = dq.astype(dq_ref.dtype)
    d_ref[...] = d


def _by_keys(of: _Blocks, *refs: Any) -> None:
    q_ref, k_ref, v_ref, lse_ref, dy_ref, d_ref, dk_ref, dv_ref = refs
    j, k, v = pl.program_id(1), k_ref[...], v_ref[...]

    def past(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        here = pl.ds(i * of.queries, of.queries)
        q, dy = q_ref[here, :], dy_ref[here, :]
        s = of.scores(q, k, i, j)
        p, dp = jnp.exp(s - lse_ref[here][:, None]), triton.dot(dy, v, trans_b=True)
        ds = of.dscores(s, p, dp, d_ref[here]).astype(q.dtype)
        dv = dv + triton.dot(p.astype(dy.dtype), dy, trans_a=True)
        return dk + triton.dot(ds, q, trans_a=True), dv

    start = jnp.zeros(k.shape, lse_ref.dtype), jnp.zeros(v.shape, lse_ref.dtype)
    dk, dv = lax.fori_loop(*of.queries_of(j, q_ref.shape[0]), past, start)
    dk_ref[...] = dk.astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _unseen(dtype: Any) -> float:
    """The score of a key that is not seen. Not -inf, which less itself is no number."""
    return float(jnp.finfo(dtype).min)


def _quotient(a: Array, b: int) -> Array:
    """a // b of no negative numbers, which is one instruction."""
    return lax.div(a, jnp.asarray(b, a.dtype))


def _padded(a: Array) -> Array:
    """With zeros behind, up to what blocks divide: a power of two, or 64 of rows many times."""
    block = min(_BLOCK, max(16, pl.next_power_of_2(a.shape[1])))
    rows = block * pl.cdiv(a.shape[1], block)
    columns = [max(16, pl.next_power_of_2(n)) for n in a.shape[2:]]
    more = zip((rows, *columns), a.shape[1:], strict=True)
    return jnp.pad(a, [(0, 0), *((0, size - n) for size, n in more)])
