"""Layout of attention's heads: the head axis leads, and the two last axes are those of a matrix.

Matrix products are fastest in this layout.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from fbp._layer import Array


def by_head(a: Array, groups: int) -> Array:
    """Rearranges (..., T, H, K) to (..., G, T R, K): per head of keys, R queries per position."""
    *batch, t, heads, size = a.shape
    a = a.reshape(*batch, t, groups, heads // groups, size)
    return a.swapaxes(-4, -3).reshape(*batch, groups, t * (heads // groups), size)


def by_place(a: Array, heads: int) -> Array:
    """Rearranges (..., G, T R, K) to (..., T, H, K): the inverse of `by_head`."""
    *batch, groups, rows, size = a.shape
    each = heads // groups
    a = a.reshape(*batch, groups, rows // each, each, size)
    return a.swapaxes(-4, -3).reshape(*batch, rows // each, heads, size)


def queries_a_key(q: Any, k: Any) -> int:
    """Returns R, the number of queries per position, if there are as many keys as positions."""
    return q.shape[-2] // max(1, k.shape[-2]) or 1


def of_heads(f: Callable[..., Any], q: Array, k: Array, *others: Any) -> Any:
    """Applies f with the leading axes (..., G) of all arrays merged into one axis of heads."""
    lead = k.shape[:-2]
    arrays = jax.tree.map(
        lambda a: a.reshape(math.prod(lead), *a.shape[len(lead) :]), (q, k, *others)
    )
    return jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), f(*arrays))
