"""How much of attention's scores there is at a time: blocks of queries, and a few heads of them."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from fbp._layer import Array
from fbp._platform import is_lone_cpu
from fbp.layers._by_head import of_heads

# Causal queries come in blocks, each with the keys that it may see. Of these pairs, (most blocks,
# fewest places a block), the one that allows the most blocks counts: on a CPU up to 4 of 32 places
# and more, up to 8 of 128 and more. Smaller ones save less than it costs to start their kernels.
_BLOCKS_ON_CPU = ((4, 32), (8, 128))
_BLOCKS = ((4, 128),)
# A CPU takes so many heads at a time that a block of them has at most this many scores, 1 MiB in
# float32; and all at once where a head has so few that there is nothing to gain.
_MOST_SCORES, _FEWEST_SCORES = 2**18, 2**13


def causal_blocks(t: int, window: int | None, each: int) -> list[tuple[slice, slice]]:
    """Which queries to take together, and the keys they may see.

    Args:
      t: how many places there are.
      window: how many keys a query sees, its own the last; None for all.
      each: how many queries a place has.
    """
    limits = _BLOCKS_ON_CPU if jax.default_backend() == "cpu" else _BLOCKS
    n = max(1, *(min(most, t // fewest) for most, fewest in limits))
    size = -(-t // n) or 1
    found = []
    for start in range(0, max(t, 1), size):
        stop = min(start + size, t)
        first = 0 if window is None else max(0, start - window + 1)
        found.append((slice(each * start, each * stop), slice(first, stop)))
    return found


def a_few_heads(
    f: Callable[..., Any], blocks: list[tuple[slice, slice]], q: Array, k: Array, *others: Any
) -> Any:
    """f of all heads; on a CPU of so few at a time that their scores stay in its cache.

    All arrays lead with (..., G): q (..., G, T R, K), k (..., G, S, K), v (..., G, S, M),
    mask (..., G, S), lse (..., G, T R) and dy (..., G, T R, M).
    """
    heads = math.prod(k.shape[:-2])
    # Of several devices each has its own heads; and those of a symbolic shape are not counted.
    if not is_lone_cpu() or not isinstance(heads, int):
        return f(q, k, *others)
    scores = max((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in blocks)
    few = max(1, _MOST_SCORES // max(1, scores))
    if few >= heads or scores < _FEWEST_SCORES:
        return f(q, k, *others)
    return of_heads(lambda *a: lax.map(lambda part: f(*part), a, batch_size=few), q, k, *others)
