"""Order and segments: top-k, sort, the means of segments."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from planted._bug import Family, normal, normals, rule, sizes


def top_k(x):
    """The three largest of each row, in order."""
    return lax.top_k(x, 3)[0]


def top_k_rule(bug=""):
    def backward(x, dy):
        index = lax.top_k(x, 3)[1]
        if bug == "order_lost":
            index = jnp.sort(index, 1)
        if bug == "first_three_columns":
            index = jnp.broadcast_to(np.arange(3), index.shape)
        if bug == "one_only":
            dy = dy.at[:, 1:].set(0)
        rows = np.arange(len(x))[:, None]
        return (jnp.zeros_like(x).at[rows, index].set(dy),)

    return rule(top_k, backward)


TOP_K = Family("top_k", top_k, top_k_rule, normals(((5, 7),), ((64, 32),)))
TOP_K_BUGS = [
    TOP_K.bug("order_lost", "x", ("term", "subset", "cotangent", "input"), "The order is lost."),
    TOP_K.bug(
        "first_three_columns", "x", ("subset", "term", "input"), "dy goes to the first columns."
    ),
    TOP_K.bug("one_only", "x", ("cotangent:first", "subset", "mask"), "Only the largest gets dy."),
]


def sort(x):
    """Each row in rising order."""
    return jnp.sort(x, 1)


def sort_rule(bug=""):
    def backward(x, dy):
        order = jnp.argsort(x, 1)
        back = order if bug == "order_not_inverted" else jnp.argsort(order, 1)
        if bug == "descending":
            dy = dy[:, ::-1]
        return (jnp.take_along_axis(dy, back, 1),)

    return rule(sort, backward)


SORT = Family("sort", sort, sort_rule, normals(((5, 7),), ((64, 32),)))
SORT_BUGS = [
    SORT.bug("order_not_inverted", "x", ("term", "input"), "The order is applied, not undone."),
    SORT.bug("descending", "x", ("term:rev", "cotangent"), "dy is read in falling order."),
]


def segment_mean(x, segment):
    """The mean of the rows of each of three segments; 0 for an empty one."""
    total = jax.ops.segment_sum(x, segment, 3)
    return total / _counts(x, segment)[:, None]


def _counts(x, segment):
    return jnp.maximum(jax.ops.segment_sum(jnp.ones(len(x), x.dtype), segment, 3), 1)


def segment_mean_rule(bug=""):
    def backward(x, segment, dy):
        dtotal = dy / _counts(x, segment)[:, None]
        if bug == "count_missing":
            dtotal = dy
        if bug == "mean_over_all":
            dtotal = dy / len(x)
        return dtotal[segment], None

    return rule(segment_mean, backward)


def _segments(rng, size):
    n, d = sizes(size, (11, 5), (128, 32))
    segment = np.repeat([0, 1, 2], [n // 2, n // 4, n - n // 2 - n // 4])
    return normal(rng, n, d), segment.astype(np.int32)


SEGMENT = Family("segment_mean", segment_mean, segment_mean_rule, _segments)
SEGMENT_BUGS = [
    SEGMENT.bug("count_missing", "x", ("row_scale", "term"), "dx lacks the 1 / count."),
    SEGMENT.bug("mean_over_all", "x", ("row_scale", "term"), "dx divides by all the rows."),
]

FAMILIES = [TOP_K, SORT, SEGMENT]
BUGS = TOP_K_BUGS + SORT_BUGS + SEGMENT_BUGS
