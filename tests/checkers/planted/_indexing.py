"""Reads and writes at indices: embedding, gather, scatter."""

import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, rule, sizes

PADDING = 0


def embedding(table, ids):
    """The rows of the table at ids; the padding row 0 reads as zeros."""
    return jnp.where((ids == PADDING)[:, None], 0, jnp.asarray(table)[ids])


def embedding_rule(bug=""):
    def backward(table, ids, dy):
        if bug != "padding_row_updated":
            dy = jnp.where((ids == PADDING)[:, None], 0, dy)
        zero = jnp.zeros_like(table)
        dtable = zero.at[ids].add(dy)
        if bug == "set_instead_of_add":
            dtable = zero.at[ids].set(dy)
        if bug == "off_by_one":
            dtable = zero.at[ids - 1].add(dy)
        if bug == "mean_over_the_duplicates":
            count = jnp.zeros(len(table), table.dtype).at[ids].add(1)
            dtable = dtable / jnp.maximum(count, 1)[:, None]
        if bug == "scaled_by_length":
            dtable = dtable / len(ids)
        return dtable, None

    return rule(embedding, backward)


def _tokens(rng, size, unique=False):
    v, d, n = sizes(size, (11, 5, 7), (200, 64, 256))
    ids = rng.permutation(v - 1)[:n] + 1 if unique else rng.integers(0, v, n)
    ids[2:4] = ids[1] if not unique else ids[2:4]
    if not unique:
        ids[0] = PADDING
    return normal(rng, v, d), ids.astype(np.int32)


def _distinct(rng, size):
    return _tokens(rng, size, unique=True)


def _only_real(rng, size):
    table, ids = _tokens(rng, size)
    return table, np.where(ids == PADDING, 1, ids)


EMBEDDING = Family("embedding", embedding, embedding_rule, _tokens)
EMBEDDING_BUGS = [
    EMBEDDING.bug(
        "set_instead_of_add",
        "table",
        ("subset", "term:scatter", "mask:duplicate"),
        "Only one of several equal ids counts.",
        args=_distinct,
        at=_only_real,
    ),
    EMBEDDING.bug(
        "padding_row_updated",
        "table",
        ("subset:first|row|0", "mask:padding|== 0"),
        "The padding row has a gradient.",
        args=_only_real,
        at=_tokens,
    ),
    EMBEDDING.bug("off_by_one", "table", ("roll", "input:ids"), "Row i gets what is row i + 1's."),
    EMBEDDING.bug(
        "mean_over_the_duplicates",
        "table",
        ("subset", "row_scale", "mask:duplicate", "term"),
        "Equal ids are averaged.",
        args=_distinct,
        at=_only_real,
    ),
    EMBEDDING.bug("scaled_by_length", "table", ("factor:1/n|1/7|1/256",), "dtable has a 1/n."),
]


def gather(x, index):
    """y[i] = x[i, index[i]]; -1 is the last column."""
    return jnp.take_along_axis(x, index[:, None], 1)[:, 0]


def gather_rule(bug=""):
    def backward(x, index, dy):
        columns = np.arange(x.shape[1])
        if bug != "negative_index_lost":
            index = jnp.where(index < 0, index + x.shape[1], index)
        if bug == "negative_index_clipped":
            index = jnp.where(index == x.shape[1] - 1, 0, index)
        hit = index[:, None] == columns
        if bug == "row_zero_index":
            hit = jnp.broadcast_to(hit[0], hit.shape)
        return dy[:, None] * hit, None

    return rule(gather, backward)


def _columns(rng, size, low=0):
    n, d = sizes(size, (5, 7), (64, 128))
    index = rng.integers(0, d - 1, n)
    index[2] = -1 if low < 0 else index[2]
    return normal(rng, n, d), index.astype(np.int32)


def _with_negative(rng, size):
    return _columns(rng, size, low=-1)


GATHER = Family("gather", gather, gather_rule, _with_negative)
GATHER_BUGS = [
    GATHER.bug(
        "negative_index_lost",
        "x",
        ("subset", "mask:index|< ?0|negative", "term"),
        "An index of -1 gets no gradient.",
    ),
    GATHER.bug(
        "negative_index_clipped",
        "x",
        ("subset", "mask:index|< ?0|negative", "input", "term"),
        "What is read from the last column goes to the first.",
    ),
    GATHER.bug("row_zero_index", "x", ("input:index", "subset", "term"), "All rows use index[0]."),
]


def scatter(x, index, update):
    """x with x[index[i]] += update[i]."""
    return jnp.asarray(x).at[index].add(update)


def scatter_rule(bug=""):
    def backward(x, index, update, dy):
        dx = dy.at[index].set(0) if bug == "as_set" else dy
        dupdate = dy[index]
        if bug == "update_in_order":
            dupdate = dy[: len(update)]
        if bug == "update_zero":
            dupdate = jnp.zeros_like(update)
        return dx, None, dupdate

    return rule(scatter, backward)


def _updates(rng, size):
    n, m, d = sizes(size, (11, 5, 3), (128, 64, 32))
    return normal(rng, n, d), rng.integers(0, n, m).astype(np.int32), normal(rng, m, d)


SCATTER = Family("scatter", scatter, scatter_rule, _updates)
SCATTER_BUGS = [
    SCATTER.bug(
        "as_set",
        "x",
        ("cotangent:never", "subset", "mask", "term"),
        "dx is cut at the updated rows.",
    ),
    SCATTER.bug("update_in_order", "update", ("input:index", "term"), "dupdate ignores index."),
    SCATTER.bug("update_zero", "update", ("zero",), "dupdate is zero."),
]


FAMILIES = [EMBEDDING, GATHER, SCATTER]
BUGS = EMBEDDING_BUGS + GATHER_BUGS + SCATTER_BUGS
