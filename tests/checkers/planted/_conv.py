"""Convolution: images (B, H, W, C), kernels (3, 3, C, F).

Forward: y[p] = sum over the taps t of x[stride p + t - left] w[t]. The rules go tap by tap:
dw[t] = x[...]^T dy, and dx[stride p + t - left] += dy[p] w[t]^T.
"""

import jax.numpy as jnp
from jax import lax

from planted._bug import Family, normals, rule

IMAGES = normals(((2, 7, 5, 3), (3, 3, 3, 4), (4,)), ((8, 16, 16, 8), (3, 3, 8, 16), (16,)))
SQUARE = normals(((2, 7, 5, 3), (3, 3, 3, 3), (3,)), ((8, 16, 16, 8), (3, 3, 8, 8), (8,)))
TAPS = [(i, j) for i in range(3) for j in range(3)]


def convolve(x, w, stride, pads, groups=1):
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        (pads, pads),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def dconvolve(bug, x, w, dy, stride, pads):
    """(dx, dw) of `convolve` with one group."""
    _, rows, columns, _ = dy.shape
    padded = jnp.pad(x, ((0, 0), pads, pads, (0, 0)))
    dpadded, dw = jnp.zeros_like(padded), jnp.zeros_like(w)
    for i, j in TAPS:
        at = jnp.s_[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        dw = dw.at[i, j].set(jnp.einsum("bhwc,bhwf->cf", padded[at], dy))
        tap = w[2 - i, 2 - j] if bug == "kernel_not_flipped" else w[i, j]
        back = dy @ tap if bug == "in_and_out_swapped" else dy @ tap.T
        if bug == "stride_ignored":
            at = jnp.s_[:, i : i + rows, j : j + columns]
        dpadded = dpadded.at[at].add(back)
    low = pads[1] if bug == "padding_swapped" else pads[0]
    dx = dpadded[:, low : low + x.shape[1], low : low + x.shape[2]]
    if bug == "first_image_only":
        dw = dconvolve("", x[:1], w, dy[:1], stride, pads)[1]
    if bug == "dw_flipped":
        dw = dw[::-1, ::-1]
    if bug == "kernel_axes_swapped":
        dw = dw.swapaxes(0, 1)
    if bug == "border_skipped":
        dx = dx.at[:, 0].set(0)
    return dx, dw


def conv(x, w, b):
    """Stride 1, padded to the same size."""
    return convolve(x, w, 1, (1, 1)) + b


def conv_rule(bug=""):
    def backward(x, w, b, dy):
        db = dy.sum((0, 1, 2))
        if bug == "db_missing":
            db = jnp.zeros_like(b)
        if bug == "db_mean":
            db = dy.mean((0, 1, 2))
        if bug == "db_first_image":
            db = dy[0].sum((0, 1))
        return *dconvolve(bug, x, w, dy, 1, (1, 1)), db

    return rule(conv, backward)


CONV = Family("conv", conv, conv_rule, IMAGES)
CONV_BUGS = [
    CONV.bug(
        "kernel_not_flipped", "x", ("term:rev|flip|conv", "input:w"), "The kernel is upright."
    ),
    CONV.bug(
        "in_and_out_swapped",
        "x",
        ("term:transpose|conv", "input:w"),
        "dx contracts dy with the kernel's input channels.",
        args=SQUARE,
    ),
    CONV.bug(
        "first_image_only",
        "w",
        ("cotangent:first", "term", "input"),
        "dw takes the first image only.",
    ),
    CONV.bug("dw_flipped", "w", ("term:rev|flip", "roll", "transpose"), "dw is upside down."),
    CONV.bug("kernel_axes_swapped", "w", ("transpose",), "dw has rows and columns swapped."),
    CONV.bug("border_skipped", "x", ("subset:first",), "dx is zero in the first row."),
    CONV.bug("db_missing", "b", ("zero",), "db is zero."),
    CONV.bug("db_mean", "b", ("factor:1/",), "db is a mean over images and positions."),
    CONV.bug("db_first_image", "b", ("cotangent:first", "term"), "db takes the first image only."),
]


def strided_conv(x, w):
    """Stride 2, padded by one after the end."""
    return convolve(x, w, 2, (0, 1))


def strided_conv_rule(bug=""):
    return rule(strided_conv, lambda x, w, dy: dconvolve(bug, x, w, dy, 2, (0, 1)))


STRIDED = Family(
    "strided_conv",
    strided_conv,
    strided_conv_rule,
    normals(((2, 7, 7, 3), (3, 3, 3, 4)), ((8, 16, 16, 8), (3, 3, 8, 16))),
)
STRIDED_BUGS = [
    STRIDED.bug(
        "stride_ignored", "x", ("term:conv|dilat|pad", "cotangent"), "dx takes the stride for 1."
    ),
    STRIDED.bug(
        "padding_swapped", "x", ("roll", "term:pad|conv"), "dx is cropped by one too late."
    ),
]


def grouped_conv(x, w):
    """Two groups of channels, each with its own kernels; w is (3, 3, C/2, F)."""
    return convolve(x, w, 1, (1, 1), groups=2)


def grouped_conv_rule(bug=""):
    def backward(x, w, dy):
        halves = [jnp.split(a, 2, -1) for a in (x, w, dy)]
        if bug == "groups_mixed":
            halves[1] = halves[1][::-1]
        dx, dw = zip(
            *(dconvolve("", *h, 1, (1, 1)) for h in zip(*halves, strict=True)), strict=True
        )
        if bug == "second_group_missing":
            dw = (dw[0], jnp.zeros_like(dw[1]))
        if bug == "dw_groups_swapped":
            dw = dw[::-1]
        return jnp.concatenate(dx, -1), jnp.concatenate(dw, -1)

    return rule(grouped_conv, backward)


GROUPED = Family(
    "grouped_conv",
    grouped_conv,
    grouped_conv_rule,
    normals(((2, 5, 7, 6), (3, 3, 3, 10)), ((8, 16, 16, 8), (3, 3, 4, 16))),
)
GROUPED_BUGS = [
    GROUPED.bug(
        "groups_mixed",
        "x",
        ("input:w", "term", "roll"),
        "dx takes the kernels of the other group.",
    ),
    GROUPED.bug(
        "second_group_missing",
        "w",
        (
            "cotangent:last 5 rows",
            "subset:last",
        ),
        "dw of the second group is zero.",
    ),
    GROUPED.bug("dw_groups_swapped", "w", ("roll", "term"), "dw has its groups swapped."),
]

FAMILIES = [CONV, STRIDED, GROUPED]
BUGS = CONV_BUGS + STRIDED_BUGS + GROUPED_BUGS
