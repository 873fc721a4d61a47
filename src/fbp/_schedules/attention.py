"""Attention's schedule: blocks of causal queries, a few heads at a time on a CPU, kernels on a GPU.

The equations are `Attention.attend` and `Attention.gradients`, of some queries and the keys they
may see. Here they are called with blocks of both. All arrays lead with (..., G): q (..., G, T R, K),
k (..., G, S, K), v (..., G, S, M), mask (..., G, S), lse (..., G, T R) and dy (..., G, T R, M).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, at_least_float32
from fbp._platform import has_several_cpus, on_cuda
from fbp._schedules.heads import of_heads, queries_a_key

Block = tuple[slice, slice]

# Causal queries come in up to 4 blocks of 32 places and more, and up to 8 of 128 and more: of these
# the limit counts that allows the most. Smaller blocks save less than it costs to start them.
_BLOCKS = ((4, 32), (8, 128))
# A CPU takes so many heads at a time that a block of them has at most this many scores, 1 MiB in
# float32; and all at once where a head has so few that there is nothing to gain.
_MOST_SCORES, _FEWEST_SCORES = 2**18, 2**13


def attend(layer: Any, q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
    """y and lse of all queries, by `layer.attend`."""
    blocks = blocks_of(layer, q, k)

    def plain(q: Array, k: Array, v: Array, mask: Array | None = None) -> tuple[Array, Array]:
        ys, lses = [], []
        for rows, keys in blocks:
            sees = _sees(layer, q, k, mask, rows, keys)
            y, lse = layer.attend(q[..., rows, :], k[..., keys, :], v[..., keys, :], sees)
            ys.append(y)
            lses.append(lse)
        return jnp.concatenate(ys, -2), jnp.concatenate(lses, -1)

    schedule = functools.partial(_a_few_heads, plain, blocks)
    kernels = _kernels(layer, q, k, v, mask)
    if kernels is None:
        return schedule(q, k, v, mask)
    return of_heads(on_cuda(kernels.forward, schedule), q, k, v)


def gradients(
    layer: Any, q: Array, k: Array, v: Array, mask: Array | None, lse: Array, dy: Array
) -> tuple[Array, Array, Array]:
    """dq, dk and dv of all queries and keys, by `layer.gradients`."""
    blocks = blocks_of(layer, q, k)

    def plain(
        q: Array, k: Array, v: Array, lse: Array, dy: Array, mask: Array | None = None
    ) -> tuple[Array, Array, Array]:
        dqs = []
        # A key has a part of its gradient from every block that sees it. They are summed by
        # columns, (K, S), as XLA's CPU leaves the parts: so none of them is turned.
        dk = jnp.zeros(k.mT.shape, at_least_float32(k).dtype)
        dv = jnp.zeros(v.mT.shape, at_least_float32(v).dtype)
        for rows, keys in blocks:
            sees = _sees(layer, q, k, mask, rows, keys)
            block = q[..., rows, :], k[..., keys, :], v[..., keys, :], sees
            dq, dk_part, dv_part = layer.gradients(*block, lse[..., rows], dy[..., rows, :])
            dqs.append(dq)
            dk = dk.at[..., keys].add(dk_part.mT.astype(dk.dtype))
            dv = dv.at[..., keys].add(dv_part.mT.astype(dv.dtype))
        return jnp.concatenate(dqs, -2), dk.mT, dv.mT

    schedule = functools.partial(_a_few_heads, plain, blocks)
    kernels = _kernels(layer, q, k, v, mask)
    if kernels is None:
        return schedule(q, k, v, lse, dy, mask)
    return of_heads(on_cuda(kernels.backward, schedule), q, k, v, lse, dy.astype(v.dtype))


def blocks_of(layer: Any, q: Array, k: Array) -> list[Block]:
    """Which queries are taken together, and the keys they may see."""
    if layer.causal:
        return causal_blocks(k.shape[-2], layer.window, queries_a_key(q, k))
    return [(slice(0, q.shape[-2]), slice(0, k.shape[-2]))]


def causal_blocks(t: int, window: int | None = None, each: int = 1) -> list[Block]:
    """Blocks of causal queries, each with no more keys than its last query may see.

    Args:
      t: how many places there are.
      window: how many keys a query sees, its own the last; None for all.
      each: how many queries a place has.
    """
    n = max(1, *(min(most, t // fewest) for most, fewest in _BLOCKS))
    size = -(-t // n) or 1
    found = []
    for start in range(0, max(t, 1), size):
        stop = min(start + size, t)
        first = 0 if window is None else max(0, start - window + 1)
        found.append((slice(each * start, each * stop), slice(first, stop)))
    return found


def _sees(
    layer: Any, q: Array, k: Array, mask: Array | None, rows: slice, keys: slice
) -> Array | None:
    places = jnp.arange(rows.start, rows.stop) // queries_a_key(q, k)
    seen = None if mask is None else mask[..., keys]
    return layer.sees(places, jnp.arange(keys.start, keys.stop), seen)


def _a_few_heads(
    f: Callable[..., Any], blocks: list[Block], q: Array, k: Array, *others: Any
) -> Any:
    """f of all heads; in a program for one CPU of so few at a time that their scores stay in its
    cache."""
    heads = math.prod(k.shape[:-2])
    scores = max((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in blocks)
    few = max(1, _MOST_SCORES // max(1, scores))
    # Those of a symbolic shape are not counted.
    if not isinstance(heads, int) or few >= heads or scores < _FEWEST_SCORES:
        return f(q, k, *others)

    def on_cpu(*arrays: Any) -> Any:
        if has_several_cpus():  # each may have its own heads
            return f(*arrays)
        return of_heads(lambda *a: lax.map(lambda part: f(*part), a, batch_size=few), *arrays)

    return lax.platform_dependent(q, k, *others, cpu=on_cpu, default=f)


def _kernels(layer: Any, q: Array, k: Array, v: Array, mask: Array | None) -> Any:
    """The kernels that take the place of all this in a program for CUDA; None where they do not
    fit, or where this process has no GPU: `jax.export` does not write them, and to import them for
    nothing takes a while."""
    if not layer.fused or jax.default_backend() != "gpu" or mask is not None:
        return None
    from fbp._schedules.attention_kernels import FusedAttention, fits

    if not fits(q, k, v):
        return None
    each = queries_a_key(q, k) if layer.causal else 1
    return FusedAttention(layer.scale_of(q), each, layer.causal, layer.window, layer.softcap)
