"""Reductions and broadcasts: mean, variance, maximum, product, norm, sums of broadcast shapes."""

import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes

ROWS = normals(((5, 7),), ((64, 128),))


def variance(x):
    """The variance of each row, 1 / n."""
    return ((x - x.mean(1, keepdims=True)) ** 2).mean(1)


def variance_rule(bug=""):
    def backward(x, dy):
        n = x.shape[1] - 1 if bug == "n_minus_one" else x.shape[1]
        mean = 0 if bug == "mean_forgotten" else x.mean(1, keepdims=True)
        dx = 2 * (x - mean) * dy[:, None] / n
        return (dx / 2 if bug == "two_missing" else dx,)

    return rule(variance, backward)


VARIANCE = Family("variance", variance, variance_rule, ROWS)
VARIANCE_BUGS = [
    VARIANCE.bug("n_minus_one", "x", ("factor:n/\\(n ?- ?1\\)|7/6|128/127",), "dx has 1/(n-1)."),
    VARIANCE.bug("mean_forgotten", "x", ("constant", "term:drop"), "dx lacks the mean."),
    VARIANCE.bug("two_missing", "x", ("factor:1/2",), "dx is halved."),
]


def mean(x):
    """The mean over the first and last of three axes."""
    return x.mean((0, 2))


def mean_rule(bug=""):
    def backward(x, dy):
        n = x.shape[0] * x.shape[2]
        if bug == "one_axis_counted":
            n = x.shape[2]
        if bug == "all_axes_counted":
            n = x.size
        dx = jnp.broadcast_to(dy[:, None] / n, x.shape)
        if bug == "spread_on_the_wrong_axis":
            dx = jnp.broadcast_to(dy / n, x.shape)
        return (dx,)

    return rule(mean, backward)


MEAN = Family("mean", mean, mean_rule, normals(((3, 5, 7),), ((8, 16, 32),)))
MEAN_BUGS = [
    MEAN.bug("one_axis_counted", "x", ("factor",), "dx divides by the length of one axis."),
    MEAN.bug("all_axes_counted", "x", ("factor:1/",), "dx divides by all of x's size."),
    MEAN.bug(
        "spread_on_the_wrong_axis",
        "x",
        ("transpose", "term:broadcast"),
        "dy is spread along the wrong axis.",
        args=normals(((3, 5, 5),), ((8, 32, 32),)),
    ),
]


def maximum(x):
    """The largest of each row; equals share its gradient."""
    return x.max(1)


def maximum_rule(bug=""):
    def backward(x, dy):
        top = x == x.max(1, keepdims=True)
        share = top / top.sum(1, keepdims=True)
        if bug == "ties_to_all":
            share = top
        if bug == "softmax":
            share = jnp.exp(x - x.max(1, keepdims=True))
            share = share / share.sum(1, keepdims=True)
        if bug == "first_column":
            share = np.arange(x.shape[1]) == 0
        return (dy[:, None] * share,)

    return rule(maximum, backward)


def _tied_rows(rng, size):
    return (np.minimum(np.round(normal(rng, *sizes(size, (5, 7), (64, 128)))), 1),)


MAXIMUM = Family("maximum", maximum, maximum_rule, ROWS)
MAXIMUM_BUGS = [
    MAXIMUM.bug(
        "ties_to_all", "x", ("mask:tie",), "Each of several maxima gets all of dy.", at=_tied_rows
    ),
    MAXIMUM.bug("softmax", "x", ("term", "slope", "along"), "dx is spread as by a softmax."),
    MAXIMUM.bug("first_column", "x", ("subset", "term"), "dy goes to the first column."),
]


def product(x):
    """The product of each row."""
    return jnp.prod(x, 1)


def product_rule(bug=""):
    def backward(x, dy):
        before = jnp.cumprod(jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=1), 1)
        after = jnp.cumprod(jnp.pad(x[:, :0:-1], ((0, 0), (1, 0)), constant_values=1), 1)[:, ::-1]
        others = before * after
        if bug == "divides_by_zero":
            others = jnp.prod(x, 1, keepdims=True) / x
        if bug == "before_only":
            others = before
        return (dy[:, None] * others,)

    return rule(product, backward)


def _one_zero(rng, size):
    x = normal(rng, *sizes(size, (5, 7), (64, 16)))
    x[1, 2] = 0
    return (x,)


PRODUCT = Family("product", product, product_rule, normals(((5, 7),), ((64, 16),)))
PRODUCT_BUGS = [
    PRODUCT.bug(
        "divides_by_zero",
        "x",
        ("nonfinite",),
        "dx is y / x: 0 / 0 where x is 0.",
        "RANGE",
        "WRONG",
        at=_one_zero,
    ),
    PRODUCT.bug("before_only", "x", ("term", "row_scale", "along"), "The later factors are lost."),
]


def norm(x):
    """The length of each row, 0 for zeros."""
    square = (x**2).sum(1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def norm_rule(bug=""):
    def backward(x, dy):
        y = norm(x)
        if bug == "nan_at_zero":
            return (x * (dy / y)[:, None],)
        y = jnp.where(y > 0, y, 1)
        if bug == "of_the_square":
            return (2 * x * dy[:, None],)
        if bug == "not_normalised":
            return (x * dy[:, None],)
        return (x * (dy / y)[:, None],)

    return rule(norm, backward)


def _one_zero_row(rng, size):
    x = normal(rng, *sizes(size, (5, 7), (64, 128)))
    x[3] = 0
    return (x,)


NORM = Family("norm", norm, norm_rule, ROWS)
NORM_BUGS = [
    NORM.bug(
        "nan_at_zero",
        "x",
        ("nonfinite",),
        "0 / 0 for a zero row.",
        "RANGE",
        "WRONG",
        at=_one_zero_row,
    ),
    NORM.bug("of_the_square", "x", ("row_scale", "term"), "dx is that of the square."),
    NORM.bug("not_normalised", "x", ("row_scale", "term"), "dx lacks 1 / |x|."),
]


def broadcast_product(x, scale, column):
    """y = x scale + column: scale is (1, D), column (N, 1)."""
    return x * scale + column


def broadcast_product_rule(bug=""):
    def backward(x, scale, column, dy):
        dscale = (dy * x).sum(0, keepdims=True)
        dcolumn = dy.sum(1, keepdims=True)
        if bug == "not_summed":
            dscale = (dy * x)[:1]
        if bug == "summed_over_all":
            dscale = jnp.full_like(scale, 1) * (dy * x).sum()
        if bug == "x_missing":
            dscale = dy.sum(0, keepdims=True)
        if bug == "column_mean":
            dcolumn = dy.mean(1, keepdims=True)
        return dy * scale, dscale, dcolumn

    return rule(broadcast_product, backward)


BROADCAST = Family(
    "broadcast",
    broadcast_product,
    broadcast_product_rule,
    normals(((5, 7), (1, 7), (5, 1)), ((64, 128), (1, 128), (64, 1))),
)
BROADCAST_BUGS = [
    BROADCAST.bug(
        "not_summed", "scale", ("cotangent:first", "term:reduce_sum"), "dscale is its first row."
    ),
    BROADCAST.bug("summed_over_all", "scale", ("constant", "term"), "dscale sums over all axes."),
    BROADCAST.bug("x_missing", "scale", ("term:drop|mul", "input"), "dscale lacks x."),
    BROADCAST.bug("column_mean", "column", ("factor:1/n|1/7|1/128",), "dcolumn is a mean."),
]

FAMILIES = [VARIANCE, MEAN, MAXIMUM, PRODUCT, NORM, BROADCAST]
BUGS = VARIANCE_BUGS + MEAN_BUGS + MAXIMUM_BUGS + PRODUCT_BUGS + NORM_BUGS + BROADCAST_BUGS
