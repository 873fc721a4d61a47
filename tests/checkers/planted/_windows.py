"""Sums over a window, whose backward looks at a window too small, or not beyond its block."""

import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normals, rule
from planted._jvp import jvp_rule

WINDOW = 3


def shifted(x, by):
    """x moved along its first axis, zeros moving in."""
    zero = jnp.zeros_like(x[: abs(by)])
    return jnp.concatenate([zero, x[:-by]] if by > 0 else [x[-by:], zero]) if by else x


def moving_mean(x):
    """The mean of each element and the two before it; there are zeros before the first."""
    return (x + shifted(x, 1) + shifted(x, 2)) / WINDOW


def moving_mean_rule(bug=""):
    def backward(x, dy):
        if bug == "one_too_few":
            return ((dy + shifted(dy, -1)) / WINDOW,)
        if bug == "one_too_few_and_divided":
            return ((dy + shifted(dy, -1)) / (WINDOW - 1),)
        if bug == "looks_back":
            return (moving_mean(dy),)
        if bug == "edge_counts":
            n = np.minimum(np.arange(len(x)) + 1, WINDOW)[:, None]
            dy = dy / n * WINDOW
        return ((dy + shifted(dy, -1) + shifted(dy, -2)) / WINDOW,)

    return rule(moving_mean, backward)


MOVING = Family("moving_mean", moving_mean, moving_mean_rule, normals(((9, 3),), ((64, 8),)))
MOVING_BUGS = [
    MOVING.bug("one_too_few", "x", ("term:drop",), "The window of the backward is 2."),
    MOVING.bug("one_too_few_and_divided", "x", ("term",), "The window of the backward is 2."),
    MOVING.bug("looks_back", "x", ("term:flip|rev|transpose", "transpose:flip"), "It looks back."),
    MOVING.bug(
        "edge_counts",
        "x",
        ("cotangent:first", "subset:first|0 to 1"),
        "The first means are taken over fewer elements than the forward's.",
    ),
]


def moving_sum_jvp(bug=""):
    def tangent(x, xt):
        if bug == "one_too_few":
            return xt + shifted(xt, 1)
        return xt + shifted(xt, 1) + shifted(xt, 2)

    return jvp_rule(moving_sum, tangent)


def moving_sum(x):
    """The sum of each element of a vector and the two before it."""
    return x + shifted(x, 1) + shifted(x, 2)


MOVING_JVP = Family("moving_sum_jvp", moving_sum, moving_sum_jvp, normals(((9,),), ((256,),)))
MOVING_JVP_BUGS = [
    MOVING_JVP.bug("one_too_few", "x", ("term:drop",), "The window of the tangent is 2."),
]


def stencil(x):
    """x[i - 1] - 2 x[i] + x[i + 1], round the ends, times x[i]."""
    return x * (jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1))


def stencil_rule(bug=""):
    def backward(x, dy):
        flow = dy * x
        left, right = jnp.roll(flow, 1), jnp.roll(flow, -1)
        if bug == "wrap_missing":
            left, right = left.at[0].set(0), right.at[-1].set(0)
        if bug == "halo_of_one_side":
            left = jnp.zeros_like(left)
        if bug == "centre_once":
            return (left - flow + right + dy * (jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1)),)
        return (left - 2 * flow + right + dy * (jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1)),)

    return rule(stencil, backward)


STENCIL = Family("stencil", stencil, stencil_rule, normals(((8,),), ((250,),)))
STENCIL_BUGS = [
    STENCIL.bug(
        "wrap_missing",
        "x",
        ("subset:first, last|only at|edge", "term:drop.*slice"),
        "It does not go round.",
    ),
    STENCIL.bug("halo_of_one_side", "x", ("term:drop",), "The left neighbour's share is missing."),
    STENCIL.bug("centre_once", "x", ("term:halve|scale|drop", "along"), "2 x[i] counts once."),
]


def block_conv(x, k):
    """y[t] = sum over s of k[s] x[t - s]; the backward works in blocks of four."""
    return sum(k[s] * shifted(x, s) for s in range(3))


def block_conv_rule(bug=""):
    def backward(x, k, dy):
        dk = jnp.stack([(dy * shifted(x, s)).sum() for s in range(3)])
        if bug == "taps_of_dk_flipped":
            dk = dk[::-1]
        halo = {"halo_missing": 0, "halo_too_small": 1}.get(bug, 2)
        parts = []
        for start in range(0, len(x), 4):
            block = dy[start : start + 4 + halo]
            full = jnp.concatenate([block, jnp.zeros(4 + 2, dy.dtype)])
            n = min(4, len(x) - start)
            parts.append(sum(k[s] * full[s : s + n] for s in range(3)))
        return jnp.concatenate(parts), dk

    return rule(block_conv, backward)


CONV = Family("block_conv", block_conv, block_conv_rule, normals(((10,), (3,)), ((250,), (3,))))
EDGES = ("subset:2, 3, 6, 7|4 of 10|3, 7", "cotangent:block|rows")
CONV_BUGS = [
    CONV.bug("halo_missing", "x", EDGES, "dx lacks what comes from the next block."),
    CONV.bug("halo_too_small", "x", EDGES, "The halo has one element, and the kernel needs two."),
    CONV.bug("taps_of_dk_flipped", "k", ("transpose", "term:flip|rev"), "dk is flipped."),
]


def neighbours(x, w):
    """y[i] = sum of w[i, s] x[i + s - 1] over a band of three."""
    return w[:, 0] * shifted(x, 1) + w[:, 1] * x + w[:, 2] * shifted(x, -1)


def neighbours_rule(bug=""):
    def backward(x, w, dy):
        up, centre, down = (w[:, s] * dy for s in range(3))
        dx = shifted(up, -1) + centre + shifted(down, 1)
        if bug == "not_transposed":
            dx = neighbours(dy, w)
        if bug == "weight_of_the_neighbour":
            dx = w[:, 0] * shifted(dy, -1) + centre + shifted(down, 1)
        if bug == "band_of_two":
            dx = shifted(up, -1) + centre
        return dx, jnp.stack([dy * shifted(x, 1), dy * x, dy * shifted(x, -1)], 1)

    return rule(neighbours, backward)


BANDED = normals(((8,), (8, 3)), ((250,), (250, 3)))
BAND = Family("neighbours", neighbours, neighbours_rule, BANDED)
BAND_BUGS = [
    BAND.bug("not_transposed", "x", ("term:transpose", "input:w"), "The band is not transposed."),
    BAND.bug(
        "weight_of_the_neighbour",
        "x",
        ("input:w rolled", "term:slice|mul"),
        "The weight is that of the element and not of its neighbour.",
    ),
    BAND.bug("band_of_two", "x", ("term:drop",), "The upper diagonal is left out."),
]

FAMILIES = [MOVING, MOVING_JVP, STENCIL, CONV, BAND]
BUGS = MOVING_BUGS + MOVING_JVP_BUGS + STENCIL_BUGS + CONV_BUGS + BAND_BUGS
