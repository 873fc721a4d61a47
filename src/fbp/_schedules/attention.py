"""Schedule of attention: blocks of causal queries, few heads at a time on a CPU, kernels on a GPU.

The equations are in `Attention._attend` and `Attention._gradients`, for some queries and the keys
that they may see. Here they are called block by block. The leading axes of all arrays are (..., G):
q (..., G, T R, K), k (..., G, S, K), v (..., G, S, M), mask (..., G, S),
dy (..., G, T R, M). A mask of integers numbers the documents of the keys, and of the queries.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array
from fbp._platform import has_several_cpus, on_cuda
from fbp._schedules.heads import of_heads, queries_a_key
from fbp._schedules.sums import Sums

Block = tuple[slice, slice]
Rule = Callable[..., Any]


class Places(NamedTuple):
    """What queries may see in a block.

    Attributes:
      queries, keys: their positions, (T R,) and (S,).
      mask: of the keys (..., G, S), of bools, or of integers, the numbers of their documents.
      documents: the numbers of the documents of the queries (..., G, T R), if the mask has those of
        the keys.
    """

    queries: Array
    keys: Array
    mask: Array | None = None
    documents: Array | None = None


# Causal queries are split into at most 4 blocks of at least 32 positions, or at most 8 of at least
# 128, whichever are more. On a CPU, 1 block took 1.4 times as long as 4 at 128 positions (jax 0.12:
# 1.8 times), and 4 blocks took 1.05 times as long as 8 at 1,024. Smaller blocks save less than
# their overhead.
_BLOCKS = ((4, 32), (8, 128))
# On a CPU, the heads taken at a time have together at most `_MOST_SCORES` scores in a block, 1 MiB
# in float32. Heads with fewer than `_FEWEST_SCORES` are taken all at once: splitting gains nothing.
_MOST_SCORES, _FEWEST_SCORES = 2**18, 2**13


def attend(
    layer: Any, rule: Rule, q: Array, k: Array, v: Array, mask: Array | None
) -> tuple[Array, Sums]:
    """Returns y and the sums, from a rule for a block: (q, k, v, places) -> y, sums."""
    blocks = blocks_of(layer, q, k)

    def plain(q: Array, k: Array, v: Array, mask: Array | None = None) -> tuple[Array, Sums]:
        parts = []
        for rows, keys in blocks:
            places = _places(q, k, mask, rows, keys)
            parts.append(rule(q[..., rows, :], k[..., keys, :], v[..., keys, :], places))
        ys, sums = zip(*parts, strict=True)
        joined = (jnp.concatenate(a, -1) for a in zip(*sums, strict=True))
        return jnp.concatenate(ys, -2), Sums(*joined)

    schedule = functools.partial(_a_few_heads, plain, blocks)
    kernels = _kernels(layer, q, k, v, mask)
    if kernels is None:
        return schedule(q, k, v, mask)
    return of_heads(on_cuda(kernels.forward, schedule), q, k, v)


def gradients(
    layer: Any,
    rule: Rule,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    sums: Sums,
    dy: Array,
) -> tuple[Array, Array, Array]:
    """Returns dq, dk and dv, from a rule for a block: (q, k, v, places, sums, dy) -> dq, dk, dv."""
    blocks = blocks_of(layer, q, k)

    def plain(
        q: Array, k: Array, v: Array, sums: Sums, dy: Array, mask: Array | None = None
    ) -> tuple[Array, Array, Array]:
        parts = []
        for rows, keys in blocks:
            block = q[..., rows, :], k[..., keys, :], v[..., keys, :]
            places = _places(q, k, mask, rows, keys)
            here = Sums(*(a[..., rows] for a in sums))
            parts.append(rule(*block, places, here, dy[..., rows, :]))
        dqs, dks, dvs = zip(*parts, strict=True)
        seen = [keys for _, keys in blocks]
        return jnp.concatenate(dqs, -2), _summed(dks, seen, k), _summed(dvs, seen, v)

    schedule = functools.partial(_a_few_heads, plain, blocks)
    kernels = _kernels(layer, q, k, v, mask)
    if kernels is None:
        return schedule(q, k, v, sums, dy, mask)
    return of_heads(on_cuda(kernels.backward, schedule), q, k, v, sums, dy.astype(v.dtype))


def blocks_of(layer: Any, q: Array, k: Array) -> list[Block]:
    """Returns the queries of each block, and the keys that they may see."""
    if layer.causal:
        return causal_blocks(k.shape[-2], layer.window, queries_a_key(q, k))
    return [(slice(0, q.shape[-2]), slice(0, k.shape[-2]))]


def causal_blocks(t: int, window: int | None = None, each: int = 1) -> list[Block]:
    """Returns blocks of causal queries, each with only the keys that some of its queries may see.

    Args:
      t: number of positions.
      window: number of keys that a query sees, the last at its own position; None for all.
      each: number of queries per position.
    """
    n = max(1, *(min(most, t // fewest) for most, fewest in _BLOCKS))
    size = -(-t // n) or 1
    found = []
    for start in range(0, max(t, 1), size):
        stop = min(start + size, t)
        first = 0 if window is None else max(0, start - window + 1)
        found.append((slice(each * start, each * stop), slice(first, stop)))
    return found


def _summed(parts: Sequence[Array], seen: Sequence[slice], like: Array) -> Array:
    """Sums the contributions of blocks to the keys that they see. They are summed by columns, as
    (K, S), so that XLA's CPU backend transposes fewer numbers."""
    total = jnp.zeros(like.mT.shape, at_least_float32(like).dtype)
    for part, keys in zip(parts, seen, strict=True):
        total = total.at[..., keys].add(part.mT.astype(total.dtype))
    return total.mT


def _places(q: Array, k: Array, mask: Array | None, rows: slice, keys: slice) -> Places:
    each = queries_a_key(q, k)
    queries = jnp.arange(rows.start, rows.stop) // each
    places = Places(queries, jnp.arange(keys.start, keys.stop))
    if mask is None:
        return places
    documents = None
    if jnp.issubdtype(mask.dtype, jnp.integer):
        here = mask[..., rows.start // each : rows.stop // each]
        documents = jnp.repeat(here, each, -1)
    return places._replace(mask=mask[..., keys], documents=documents)


def _a_few_heads(
    f: Callable[..., Any], blocks: list[Block], q: Array, k: Array, *others: Any
) -> Any:
    """Applies f to all heads at once, or, in a program for a single CPU, to so few at a time that
    their scores stay in its cache."""
    heads = math.prod(k.shape[:-2])
    scores = max((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in blocks)
    few = max(1, _MOST_SCORES // max(1, scores))
    # The number of heads may be symbolic.
    if not isinstance(heads, int) or few >= heads or scores < _FEWEST_SCORES:
        return f(q, k, *others)

    def on_cpu(*arrays: Any) -> Any:
        if has_several_cpus():  # The heads may be sharded over them.
            return f(*arrays)
        return of_heads(lambda *a: lax.map(lambda part: f(*part), a, batch_size=few), *arrays)

    return lax.platform_dependent(q, k, *others, cpu=on_cpu, default=f)


def _kernels(layer: Any, q: Array, k: Array, v: Array, mask: Array | None) -> Any:
    """Returns the kernels that replace the blocks in a program for CUDA, or None if they do not
    support the arrays or this process has no GPU: `jax.export` cannot serialize kernels, and their
    import is slow."""
    if not layer.fused or jax.default_backend() != "gpu" or mask is not None:
        return None
    from fbp._schedules.attention_kernels import FusedAttention, fits

    if not fits(q, k, v):
        return None
    each = queries_a_key(q, k) if layer.causal else 1
    return FusedAttention(layer.scale_of(q), each, layer.causal, layer.window, layer.softcap)
