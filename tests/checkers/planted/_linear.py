"""Matrix products: the dense layer, and one matrix shared by two layers."""

import jax.numpy as jnp

from planted._bug import Family, normals, rule

DENSE = normals(((5, 7), (7, 3), (3,)), ((64, 256), (256, 128), (128,)))
SQUARE_W = normals(((5, 7), (7, 7), (7,)), ((64, 128), (128, 128), (128,)))
SQUARE = normals(((7, 7), (7, 7), (7,)), ((128, 128), (128, 128), (128,)))


def linear(x, w, b):
    """y = x w + b."""
    return x @ w + b


def linear_rule(bug=""):
    def backward(x, w, b, dy):
        dx = dy @ w.T
        dw = x.T @ dy
        db = dy.sum(0)
        if bug == "dw_transposed":
            dw = dw.T
        if bug == "dw_mean":
            dw = dw / x.shape[0]
        if bug == "dw_first_row_only":
            dw = jnp.outer(x[0], dy[0])
        if bug == "dw_decayed":
            dw = dw + 0.01 * w
        if bug == "dw_extra_b":
            dw = x.T @ (dy + b)
        if bug == "db_wrong_axis":
            db = dy.sum(1)
        if bug == "db_halved":
            db = db / 2
        if bug == "db_mean":
            db = dy.mean(0)
        if bug == "db_from_dx":
            db = (dy @ w.T).sum(0)
        if bug == "db_zero":
            db = jnp.zeros_like(b)
        if bug == "dx_dropped":
            dx = jnp.zeros_like(x)
        if bug == "dx_without_transpose":
            dx = dy @ w
        if bug == "dx_rolled":
            dx = jnp.roll(dx, 1, 0)
        if bug == "last_row_block_skipped":
            whole = x.shape[0] // 4 * 4
            dw = x[:whole].T @ dy[:whole]
        if bug == "gradients_swapped":
            dx, dw = dw, dx
        return dx, dw, db

    return rule(linear, backward)


LINEAR = Family("linear", linear, linear_rule, DENSE)
LINEAR_BUGS = [
    LINEAR.bug("dw_transposed", "w", ("transpose",), "dw is transposed.", args=SQUARE_W),
    LINEAR.bug("dw_mean", "w", ("factor:1/n|1/5|1/64",), "dw is a mean over the rows, not a sum."),
    LINEAR.bug(
        "dw_first_row_only",
        "w",
        ("cotangent:first|row", "term", "input"),
        "dw takes the first row only.",
    ),
    LINEAR.bug(
        "dw_decayed",
        "w",
        (
            "cotangent:times w",
            "along:w",
        ),
        "Weight decay leaks into dw.",
    ),
    LINEAR.bug("dw_extra_b", "w", ("cotangent", "along", "term"), "dw adds the bias to dy."),
    LINEAR.bug(
        "db_wrong_axis",
        "b",
        ("term:axis|axes|reduce_sum", "cotangent:transpose"),
        "db sums over the features, not over the rows.",
        args=SQUARE,
    ),
    LINEAR.bug("db_halved", "b", ("factor:1/2",), "db is halved."),
    LINEAR.bug("db_mean", "b", ("factor:1/n|1/5|1/64",), "db is a mean over the rows, not a sum."),
    LINEAR.bug(
        "db_from_dx",
        "b",
        ("cotangent", "term", "along"),
        "db sums dx in the place of dy.",
        args=SQUARE_W,
    ),
    LINEAR.bug("db_zero", "b", ("zero",), "db is zero."),
    LINEAR.bug("dx_dropped", "x", ("zero",), "dx is zero."),
    LINEAR.bug(
        "dx_without_transpose",
        "x",
        ("term:transpose|dot_general", "input:w"),
        "dx multiplies by w, not by its transpose.",
        args=SQUARE_W,
    ),
    LINEAR.bug("dx_rolled", "x", ("roll",), "dx is shifted by one row."),
    LINEAR.bug(
        "last_row_block_skipped",
        "w",
        ("cotangent:last|row|subset", "term", "along"),
        "dw skips the rows after the last whole block of four.",
        args=normals(((7, 5), (5, 3), (3,)), ((67, 256), (256, 128), (128,))),
    ),
    LINEAR.bug(
        "gradients_swapped",
        "x w",
        ("swap",),
        "dx and dw are returned in the wrong order.",
        args=SQUARE,
    ),
]


def tied(x, w):
    """An autoencoder with one matrix: y = tanh(x w) w^T."""
    return jnp.tanh(x @ w) @ w.T


def tied_rule(bug=""):
    def backward(x, w, dy):
        h = jnp.tanh(x @ w)
        dwt = h.T @ dy
        da = (dy @ w) * (1 - h**2)
        dw = x.T @ da
        dx = da @ w.T
        if bug == "decoder_side_lost":
            return dx, dw
        if bug == "encoder_side_lost":
            return dx, dwt.T
        if bug == "sides_averaged":
            return dx, (dw + dwt.T) / 2
        return dx, dw + dwt.T

    return rule(tied, backward)


TIED = Family("tied", tied, tied_rule, normals(((5, 7), (7, 3)), ((64, 128), (128, 32)), 0.5))
TIED_BUGS = [
    TIED.bug("decoder_side_lost", "w", ("term:drop",), "dw lacks its share from the decoder."),
    TIED.bug("encoder_side_lost", "w", ("term:drop",), "dw lacks its share from the encoder."),
    TIED.bug("sides_averaged", "w", ("factor:1/2",), "The two shares of dw are averaged."),
]


FAMILIES = [LINEAR, TIED]
BUGS = LINEAR_BUGS + TIED_BUGS
