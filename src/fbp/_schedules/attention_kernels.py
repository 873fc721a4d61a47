"""Attention as GPU kernels, forward and backward: the scores stay in on-chip memory.

Each program of a kernel loops over all keys that one block of queries sees, or over all queries
that see one block of keys:

    attend        y = sum_keys exp(s - top) v, rescaled whenever top, the running maximum, grows,
                  divided by total = sum_keys exp(s - top);  part = 1 / total
    by queries    p = exp(s - top) part,  dp = dy v^T,  D = sum_keys p dp;  in a second loop
                  dq = scale * sum_keys p (dp - D) k
    by keys       dv = sum_queries p dy,  dk = scale * sum_queries p (dp - D) q

Source: Dao et al., "FlashAttention", NeurIPS 2022, and Dao, "FlashAttention-2", ICLR 2024. There,
y is kept and D = sum(y dy); here only top and part are kept, and D is summed from p and dp.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fbp._gradients import at_least_float32
from fbp._layer import Array
from fbp._schedules.kernel_blocks import Blocks, padded, unseen
from fbp._schedules.sums import Sums

_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)
# Compute capabilities with more than 100 KiB of shared memory per block: A100, H100/H200, B200.
_LARGE = ("8.0", "9.0", "10.0")


def fits(q: Array, k: Array, v: Array) -> bool:
    """Whether the kernels support these arrays on the GPU of this process."""
    # Shapes may be symbolic.
    sizes = (*q.shape, *k.shape, v.shape[-1])
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype not in _DTYPES:
        return False
    # With several devices, heads may be sharded.
    if jax.device_count() > 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return False
    # Triton needs an Ampere GPU or newer; wide heads need the shared memory of `_LARGE` ones.
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    if not re.fullmatch(r"\d+\.\d+", capability):  # "gfx942" on ROCm
        return False
    width = max(q.shape[-1], v.shape[-1])
    is_wide = width * q.dtype.itemsize > 128
    return width <= 128 and float(capability) >= 8 and (not is_wide or capability in _LARGE)


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """Attention for N heads of keys, each with R adjacent queries per position.

    Shapes: q (N, T R, K), k (N, S, K), v (N, S, M); y and dy (N, T R, M), top and part (N, T R).

    Attributes:
      scale: factor of the scores.
      each: R, from which a query's position is computed; 1 if not causal.
      causal: whether a query sees only keys up to its own position; then S = T.
      window: number of keys that a causal query sees, the last at its own position; None for all.
      softcap: bound on the scores; None for no bound.
      interpret: whether to run the kernels without a GPU, slowly.
    """

    scale: float
    each: int = 1
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    interpret: bool = False

    def forward(self, q: Array, k: Array, v: Array) -> tuple[Array, Sums]:
        """Returns y and the sums."""
        whole = [padded(a) for a in (q, k, v)]
        rows = whole[0].shape[:2]
        y = jax.ShapeDtypeStruct((*rows, whole[2].shape[2]), v.dtype)
        a_row = jax.ShapeDtypeStruct(rows, at_least_float32(q).dtype)
        outs = y, a_row, a_row
        y, *sums = Blocks(self, k.shape[1]).run(_attend, "q__", whole, "qqq", outs)
        return y[:, : q.shape[1], : v.shape[2]], Sums(*(a[:, : q.shape[1]] for a in sums))

    def backward(
        self, q: Array, k: Array, v: Array, sums: Sums, dy: Array
    ) -> tuple[Array, Array, Array]:
        """Returns dq, dk and dv."""
        of = Blocks(self, k.shape[1])
        whole = [padded(a) for a in (q, k, v, *sums, dy)]
        dq, d = of.run(_by_queries, "q__qqq", whole, "qq", (whole[0], whole[3]))
        dk, dv = of.run(_by_keys, "_kk____", [*whole, d], "kk", whole[1:3])
        grads = zip((dq, dk, dv), (q, k, v), strict=True)
        dq, dk, dv = (da[:, : a.shape[1], : a.shape[2]] for da, a in grads)
        return dq, dk, dv


# The kernels. `Blocks.run` is told which of their refs hold one block; the others hold all rows.


def _attend(of: Blocks, q_ref: Any, k_ref: Any, v_ref: Any, *outs: Any) -> None:
    y_ref, top_ref, part_ref = outs
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

    wide = top_ref.dtype
    start = (
        jnp.full(of.queries, unseen(wide), wide),
        jnp.zeros(of.queries, wide),
        jnp.zeros(y_ref.shape, wide),
    )
    top, total, y = lax.fori_loop(*of.keys_of(i), past, start)
    y_ref[...] = (y / total[:, None]).astype(y_ref.dtype)
    top_ref[...] = top
    part_ref[...] = 1 / total


def _by_queries(of: Blocks, *refs: Any) -> None:
    q_ref, k_ref, v_ref, top_ref, part_ref, dy_ref, dq_ref, d_ref = refs
    i, q, dy = pl.program_id(1), q_ref[...], dy_ref[...]
    top, part = top_ref[...], part_ref[...]

    def at(j: Array) -> tuple[Array, Array, Array, Array]:
        here = pl.ds(j * of.keys, of.keys)
        k, v = k_ref[here, :], v_ref[here, :]
        s = of.scores(q, k, i, j)
        return k, s, _p(s, top, part), triton.dot(dy, v, trans_b=True)

    def sum_up(j: Array, d: Array) -> Array:
        _, _, p, dp = at(j)
        return d + (p * dp).sum(1)

    def past(j: Array, dq: Array) -> Array:
        k, s, p, dp = at(j)
        return dq + triton.dot(of.dscores(s, p, dp, d).astype(k.dtype), k)

    d = lax.fori_loop(*of.keys_of(i), sum_up, jnp.zeros_like(top))
    dq = lax.fori_loop(*of.keys_of(i), past, jnp.zeros(q.shape, top.dtype))
    dq_ref[...] = dq.astype(dq_ref.dtype)
    d_ref[...] = d


def _by_keys(of: Blocks, *refs: Any) -> None:
    q_ref, k_ref, v_ref, top_ref, part_ref, dy_ref, d_ref, dk_ref, dv_ref = refs
    j, k, v = pl.program_id(1), k_ref[...], v_ref[...]

    def past(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        here = pl.ds(i * of.queries, of.queries)
        q, dy = q_ref[here, :], dy_ref[here, :]
        s = of.scores(q, k, i, j)
        p, dp = _p(s, top_ref[here], part_ref[here]), triton.dot(dy, v, trans_b=True)
        ds = of.dscores(s, p, dp, d_ref[here]).astype(q.dtype)
        dv = dv + triton.dot(p.astype(dy.dtype), dy, trans_a=True)
        return dk + triton.dot(ds, q, trans_a=True), dv

    start = jnp.zeros(k.shape, top_ref.dtype), jnp.zeros(v.shape, top_ref.dtype)
    dk, dv = lax.fori_loop(*of.queries_of(j, q_ref.shape[0]), past, start)
    dk_ref[...] = dk.astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _p(s: Array, top: Array, part: Array) -> Array:
    return jnp.exp(s - top[:, None]) * part[:, None]
