"""Gradients summed block by block: blocks that are lost, overwritten, or counted twice."""

import jax.numpy as jnp

from planted._bug import Family, normal, normals, rule, sizes
from planted._jvp import jvp_rule

BLOCK = 4


def blocks(n, bug):
    """The slices of n rows in blocks of four, the last one shorter; `bug` gets them wrong."""
    starts = list(range(0, n, BLOCK))
    if bug == "tail_lost":
        starts = [s for s in starts if s + BLOCK <= n]
    if bug == "first_block_lost":
        starts = starts[1:]
    if bug == "tail_overlaps":
        starts[-1] = n - BLOCK
    return [slice(s, min(s + BLOCK, n)) for s in starts]


def projection(x, w):
    """y = x w; dw is summed over blocks of rows."""
    return x @ w


def projection_rule(bug=""):
    def backward(x, w, dy):
        dw = jnp.zeros_like(w)
        for rows in blocks(len(x), bug):
            part = x[rows].T @ dy[rows]
            dw = part if bug == "overwritten" else dw + part
        return dy @ w.T, dw

    return rule(projection, backward)


PROJECTION = Family(
    "projection", projection, projection_rule, normals(((10, 7), (7, 3)), ((62, 128), (128, 32)))
)
PROJECTION_BUGS = [
    PROJECTION.bug("tail_lost", "w", ("cotangent:last 2",), "The last, shorter block is left out."),
    PROJECTION.bug("first_block_lost", "w", ("cotangent:first 4",), "The first block is lost."),
    PROJECTION.bug(
        "overwritten", "w", ("cotangent:first 8|last 2",), "A block overwrites those before it."
    ),
    PROJECTION.bug(
        "tail_overlaps", "w", ("cotangent:twice|2 times|doubl",), "Two rows are in two blocks."
    ),
]


def split_columns(x, w):
    """y = x w; dx is summed over blocks of the columns of w."""
    return x @ w


def split_columns_rule(bug=""):
    def backward(x, w, dy):
        parts = [dy[:, c] @ w[:, c].T for c in blocks(w.shape[1], bug)]
        if bug == "last_partial_unsummed":
            parts = parts[:-1]
        return sum(parts), x.T @ dy

    return rule(split_columns, backward)


SPLIT = Family(
    "split_columns",
    split_columns,
    split_columns_rule,
    normals(((5, 7), (7, 12)), ((64, 128), (128, 32))),
)
SPLIT_BUGS = [
    SPLIT.bug("first_block_lost", "x", ("cotangent:first 4.*axis 1",), "A block is lost."),
    SPLIT.bug("last_partial_unsummed", "x", ("cotangent:last 4.*axis 1",), "A partial is lost."),
]


def log_square(x):
    """The sum of log(1 + x^2) of a vector."""
    return jnp.log1p(x * x).sum()


def log_square_rule(bug=""):
    def backward(x, dy):
        dx = jnp.zeros_like(x)
        for part in blocks(len(x), bug):
            dx = dx.at[part].add(dy * 2 * x[part] / (1 + x[part] ** 2))
        return (dx,)

    return rule(log_square, backward)


VECTOR = normals(((10,),), ((250,),))
LOG = Family("log_square", log_square, log_square_rule, VECTOR)
LOG_BUGS = [
    LOG.bug("tail_lost", "x", ("subset:zero.*last|last",), "dx of the tail stays zero."),
    LOG.bug("first_block_lost", "x", ("subset:first|0 to 3",), "dx of the first block is zero."),
    LOG.bug("tail_overlaps", "x", ("subset:6, 7|6 to 7|rows 6",), "Two elements are added twice."),
]


def square_sum_rule(bug=""):
    def tangent(x, xt):
        return sum((2 * x[part] * xt[part]).sum() for part in blocks(len(x), bug))

    return jvp_rule(lambda x: (x * x).sum(), tangent)


SQUARES = Family("square_sum_jvp", lambda x: (x * x).sum(), square_sum_rule, VECTOR)
SQUARES_BUGS = [
    SQUARES.bug("tail_lost", "x", ("subset:zero.*last|last",), "Its tangent lacks the tail."),
    SQUARES.bug("tail_overlaps", "x", ("subset:6, 7|6 to 7|rows 6",), "Two are counted twice."),
]


def channels(params, x):
    """y = x scale + shift, one scale and one shift for each channel of x (B, T, D)."""
    return x * params["scale"] + params["shift"]


def channels_rule(bug=""):
    def backward(params, x, dy):
        parts = blocks(x.shape[1], bug.removesuffix("_of_scale"))
        dscale = sum((x[:, t] * dy[:, t]).sum((0, 1)) for t in parts)
        dshift = sum(dy[:, t].sum((0, 1)) for t in blocks(x.shape[1], ""))
        if bug == "first_of_batch":
            dscale = (x[0] * dy[0]).sum(0)
        if bug == "mean_of_blocks":
            dshift = dshift / len(parts)
        return {"scale": dscale, "shift": dshift}, dy * params["scale"]

    return rule(channels, backward)


def _channels_args(rng, size):
    b, t, d = sizes(size, (2, 7, 3), (8, 30, 64))
    return {"scale": normal(rng, d), "shift": normal(rng, d)}, normal(rng, b, t, d)


CHANNELS = Family("channels", channels, channels_rule, _channels_args)
CHANNELS_BUGS = [
    CHANNELS.bug(
        "tail_lost_of_scale",
        "params.scale",
        ("cotangent:last 3.*axis 1",),
        "dscale lacks the last block of the time axis.",
    ),
    CHANNELS.bug(
        "first_of_batch",
        "params.scale",
        ("cotangent:first row|last row|row 1",),
        "dscale is summed over the first example only.",
    ),
    CHANNELS.bug("mean_of_blocks", "params.shift", ("factor:1/2",), "dshift is a mean of blocks."),
]


def running_total(x):
    """The sums of x up to each place; in blocks, each with the total of those before it."""
    return jnp.cumsum(x, 0)


def running_total_rule(bug=""):
    def backward(x, dy):
        after, parts = jnp.zeros_like(dy[0]), []
        for rows in reversed(blocks(len(x), "")):
            here = jnp.flip(jnp.cumsum(jnp.flip(dy[rows], 0), 0), 0)
            parts.append(here if bug == "carry_missing" else here + after)
            total = dy[rows].sum(0)
            after = total if bug == "carry_overwritten" else after + total
        return (jnp.concatenate(parts[::-1]),)

    return rule(running_total, backward)


TOTAL = Family("running_total", running_total, running_total_rule, normals(((10, 3),), ((62, 8),)))
TOTAL_BUGS = [
    TOTAL.bug(
        "carry_missing",
        "x",
        ("subset:0 to 7|last.*right|first.*0 to 7", "constant:block"),
        "Blocks lack the total of those after them.",
    ),
    TOTAL.bug(
        "carry_overwritten",
        "x",
        ("subset:0 to 3|first", "cotangent:last 2"),
        "The total of the next block replaces that of all later ones.",
    ),
]

FAMILIES = [PROJECTION, SPLIT, LOG, SQUARES, CHANNELS, TOTAL]
BUGS = PROJECTION_BUGS + SPLIT_BUGS + LOG_BUGS + SQUARES_BUGS + CHANNELS_BUGS + TOTAL_BUGS
