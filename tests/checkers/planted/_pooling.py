"""Pooling and resampling of images and signals: max, average, interpolation, pad, crop, shift."""

import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes

IMAGES = normals(((2, 6, 10, 3),), ((8, 16, 16, 8),))


def _tiles(x):
    """(B, H, W, C) -> (B, H/2, W/2, C, 4): the four values of each tile."""
    b, h, w, c = x.shape
    tiles = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    return tiles.reshape(b, h // 2, w // 2, c, 4)


def _untile(tiles):
    b, h, w, c, _ = tiles.shape
    x = tiles.reshape(b, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, 2 * h, 2 * w, c)


def max_pool(x):
    """The largest of each 2 x 2 tile, the first among equals."""
    tiles = _tiles(x)
    return jnp.take_along_axis(tiles, tiles.argmax(-1)[..., None], -1)[..., 0]


def max_pool_rule(bug=""):
    def backward(x, dy):
        tiles = _tiles(x)
        best = tiles.argmin(-1) if bug == "argmin" else tiles.argmax(-1)
        share = (best[..., None] == np.arange(4)).astype(x.dtype)
        if bug == "ties_to_all":
            share = (tiles == tiles.max(-1, keepdims=True)).astype(x.dtype)
        if bug == "average":
            share = jnp.full_like(tiles, 1 / 4)
        if bug == "last_among_equals":
            best = 3 - tiles[..., ::-1].argmax(-1)
            share = (best[..., None] == np.arange(4)).astype(x.dtype)
        if bug == "rows_and_columns_swapped":
            share = share[..., np.array([0, 2, 1, 3])]
        return (_untile(dy[..., None] * share),)

    return rule(max_pool, backward)


def _ties(rng, size):
    return (np.round(normal(rng, *sizes(size, (2, 6, 10, 3), (8, 16, 16, 8)))),)


MAX = Family("max_pool", max_pool, max_pool_rule, IMAGES)
MAX_BUGS = [
    MAX.bug("ties_to_all", "x", ("mask:tie",), "Each of several maxima gets all of dy.", at=_ties),
    MAX.bug(
        "argmin",
        "x",
        ("input:x negated", "term", "subset", "mask"),
        "The smallest of a tile gets dy.",
    ),
    MAX.bug("average", "x", ("term", "slope", "along", "constant"), "All of a tile share dy."),
    MAX.bug(
        "last_among_equals",
        "x",
        (
            "mask:kink",
            "mask:tie",
        ),
        "The last of several maxima gets dy: another subgradient.",
        "CONVENTION",
        at=_ties,
    ),
    MAX.bug(
        "rows_and_columns_swapped", "x", ("term:transpose|gather", "transpose"), "Tiles are turned."
    ),
]


def avg_pool(x):
    """The mean of each 2 x 2 tile."""
    return _tiles(x).mean(-1)


def avg_pool_rule(bug=""):
    def backward(x, dy):
        area = {"no_1_over_n": 1, "side_for_area": 2}.get(bug, 4)
        return (_untile(jnp.broadcast_to(dy[..., None] / area, (*dy.shape, 4))),)

    return rule(avg_pool, backward)


AVG = Family("avg_pool", avg_pool, avg_pool_rule, IMAGES)
AVG_BUGS = [
    AVG.bug("no_1_over_n", "x", ("factor:4",), "dx lacks the 1/4."),
    AVG.bug("side_for_area", "x", ("factor:2",), "dx divides by 2, the side of a tile."),
]


def interpolate(x):
    """Twice the points, linearly: y[2i] = x[i], y[2i + 1] = (3 x[i] + x[i + 1]) / 4."""
    after = jnp.concatenate([x[:, 1:], x[:, -1:]], 1)
    return jnp.stack([x, (3 * x + after) / 4], -1).reshape(len(x), -1)


def interpolate_rule(bug=""):
    def backward(x, dy):
        even, odd = dy[:, ::2], dy[:, 1::2]
        near, far = (1, 3) if bug == "weights_swapped" else (3, 1)
        carried = jnp.pad(odd[:, :-1], ((0, 0), (1, 0))).at[:, -1].add(odd[:, -1])
        if bug == "edge_lost":
            carried = jnp.pad(odd[:, :-1], ((0, 0), (1, 0)))
        if bug == "shift_backwards":
            carried = jnp.pad(odd[:, 1:], ((0, 0), (0, 1)))
        dx = even + (near * odd + far * carried) / 4
        if bug == "nearest":
            dx = even + odd
        return (dx,)

    return rule(interpolate, backward)


INTERPOLATE = Family("interpolate", interpolate, interpolate_rule, normals(((5, 7),), ((64, 128),)))
INTERPOLATE_BUGS = [
    INTERPOLATE.bug("weights_swapped", "x", ("term",), "The weights 3/4 and 1/4 are swapped."),
    INTERPOLATE.bug("edge_lost", "x", ("subset:last", "term:drop"), "The edge's share is lost."),
    INTERPOLATE.bug("shift_backwards", "x", ("term", "roll"), "The far share goes the wrong way."),
    INTERPOLATE.bug("nearest", "x", ("term", "along"), "dx is that of repeating each point."),
]


def pad(x):
    """Two columns of zeros before, one after."""
    return jnp.pad(x, ((0, 0), (2, 1)))


def pad_rule(bug=""):
    def backward(x, dy):
        low = {"offset_by_one": 1, "not_shifted": 0}.get(bug, 2)
        return (dy[:, low : low + x.shape[1]],)

    return rule(pad, backward)


PAD = Family("pad", pad, pad_rule, normals(((5, 7),), ((64, 128),)))
PAD_BUGS = [
    PAD.bug(
        "offset_by_one", "x", ("roll", "term:pad", "cotangent"), "dx is cropped one too early."
    ),
    PAD.bug("not_shifted", "x", ("roll", "term:pad", "cotangent"), "dx is cropped at column 0."),
]


def crop(x):
    """Without the first column and the last two."""
    return x[:, 1:-2]


def crop_rule(bug=""):
    def backward(x, dy):
        pads = (2, 1) if bug == "sides_swapped" else (1, 2)
        mode = "edge" if bug == "edge_for_zero" else "constant"
        return (jnp.pad(dy, ((0, 0), pads), mode),)

    return rule(crop, backward)


CROP = Family("crop", crop, crop_rule, normals(((5, 7),), ((64, 128),)))
CROP_BUGS = [
    CROP.bug("sides_swapped", "x", ("roll", "term:pad|slice"), "dx is padded on the wrong sides."),
    CROP.bug("edge_for_zero", "x", ("subset", "mask"), "What was cropped gets its neighbour's dy."),
]

FAMILIES = [MAX, AVG, INTERPOLATE, PAD, CROP]
BUGS = MAX_BUGS + AVG_BUGS + INTERPOLATE_BUGS + PAD_BUGS + CROP_BUGS
