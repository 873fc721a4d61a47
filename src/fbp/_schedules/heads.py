"""How attention lays out its heads: one axis of them in front, two of matrices behind.

So its products are fastest.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from fbp._layer import Array


def by_head(a: Array, groups: int) -> Array:
    """(..., T, H, K) as (..., G, T R, K): for each head of keys its R queries of every place."""
    *batch, t, heads, size = a.shape
    a = a.reshape(*batch, t, groups, heads // groups, size)
    return a.swapaxes(-4, -3).reshape(*batch, groups, t * (heads // groups), size)


def by_place(a: Array, heads: int) -> Array:
    """(..., G, T R, K) as (..., T, H, K): what `by_head` has turned, back."""
    *batch, groups, rows, size = a.shape
    each = heads // groups
    a = a.reshape(*batch, groups, rows // each, each, size)
    return a.swapaxes(-4, -3).reshape(*batch, rows // each, heads, size)


def queries_a_key(q: Any, k: Any) -> int:
    """R, where there are as many keys as places."""
    return q.shape[-2] // max(1, k.shape[-2]) or 1


def of_heads(f: Callable[..., Any], q: Array, k: Array, *others: Any) -> Any:
    """f of arrays with one axis of heads in front, in place of the axes (..., G)."""
    lead = k.shape[:-2]
    arrays = jax.tree.map(
        lambda a: a.reshape(math.prod(lead), *a.shape[len(lead) :]), (q, k, *others)
    )
    return jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), f(*arrays))
