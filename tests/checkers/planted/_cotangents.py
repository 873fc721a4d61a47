"""What is done with dy: dropped, replaced, rounded; dropout's mask; leaves of unlike scale."""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes

KEEP = 0.75


def layer(x, w):
    """y = tanh(x w)."""
    return jnp.tanh(x @ w)


def layer_rule(bug=""):
    def backward(x, w, dy):
        if bug == "first_row_for_all":
            dy = jnp.broadcast_to(dy[0], dy.shape)
        if bug == "ones":
            dy = jnp.ones_like(dy)
        if bug == "cast_to_bf16":
            dy = dy.astype(jnp.bfloat16).astype(dy.dtype)
        if bug == "mean":
            dy = jnp.full_like(dy, 1) * dy.mean()
        if bug == "squared":
            dy = dy * dy
        if bug == "clipped":
            dy = jnp.clip(dy, -1, 1)
        if bug == "sign_of_dy":
            dy = jnp.sign(dy)
        if bug == "rolled":
            dy = jnp.roll(dy, 1, 0)
        da = dy * (1 - jnp.tanh(x @ w) ** 2)
        return da @ w.T, x.T @ da

    return rule(layer, backward)


LAYER = Family(
    "cotangent", layer, layer_rule, normals(((5, 7), (7, 3)), ((64, 128), (128, 32)), 0.5)
)
LAYER_BUGS = [
    LAYER.bug("first_row_for_all", "x w", ("cotangent:first|row",), "dy[0] is used for all rows."),
    LAYER.bug(
        "ones",
        "x w",
        (
            "cotangent:not depend",
            "cotangent:one",
        ),
        "dy is taken for ones.",
    ),
    LAYER.bug(
        "cast_to_bf16",
        "x w",
        ("precision", "cotangent:round|bf|bfloat16"),
        "dy is rounded to bfloat16.",
        "PRECISION",
    ),
    LAYER.bug("mean", "x w", ("cotangent:mean",), "dy is replaced by its mean."),
    LAYER.bug("squared", "x w", ("cotangent",), "dy is squared: the rule is not linear in dy."),
    LAYER.bug("clipped", "x w", ("cotangent",), "dy is clipped: the rule is not linear in dy."),
    LAYER.bug("sign_of_dy", "x w", ("cotangent",), "dy is replaced by its sign."),
    LAYER.bug("rolled", "x w", ("cotangent", "roll"), "dy is shifted by one row."),
]


def moments(x):
    """The mean and the variance of each row."""
    mu = x.mean(1)
    return mu, ((x - mu[:, None]) ** 2).mean(1)


def moments_rule(bug=""):
    def backward(x, dy):
        dmean, dvar = dy
        if bug == "outputs_swapped":
            dmean, dvar = dvar, dmean
        n = x.shape[1]
        of_mean = dmean[:, None] / n
        of_var = 2 * (x - x.mean(1, keepdims=True)) * dvar[:, None] / n
        if bug == "second_dropped":
            return (jnp.broadcast_to(of_mean, x.shape),)
        if bug == "first_dropped":
            return (of_var,)
        return (of_mean + of_var,)

    return rule(moments, backward)


MOMENTS = Family("moments", moments, moments_rule, normals(((5, 7),), ((64, 128),)))
MOMENTS_BUGS = [
    MOMENTS.bug("second_dropped", "x", ("cotangent:second|drop", "term:drop"), "dvar is not used."),
    MOMENTS.bug("first_dropped", "x", ("cotangent", "term:drop", "constant"), "dmean is not used."),
    MOMENTS.bug("outputs_swapped", "x", ("cotangent", "swap", "term"), "dmean and dvar swap."),
]


def dropout(x, key):
    """A quarter of x dropped, the rest divided by 0.75."""
    return jnp.where(_kept(x, key), x / KEEP, 0)


def _kept(x, key):
    return jax.random.uniform(key, x.shape, jnp.float32) < KEEP


def dropout_rule(bug=""):
    def backward(x, key, dy):
        if bug == "fresh_mask":
            key = jax.random.fold_in(key, 1)
        scale = {"scale_missing": 1, "scale_of_the_dropped": 1 - KEEP}.get(bug, KEEP)
        dx = jnp.where(_kept(x, key), dy / scale, 0)
        if bug == "no_mask":
            dx = dy / scale
        if bug == "mask_of_the_output":
            dx = jnp.where(dropout(x, key) > 0, dy / scale, 0)
        return dx, None

    return rule(dropout, backward)


def _keyed(rng, size):
    return normal(rng, *sizes(size, (5, 7), (64, 128))), rng.integers(0, 2**31, 2, np.uint32)


DROPOUT = Family("dropout", dropout, dropout_rule, _keyed)
DROPOUT_BUGS = [
    DROPOUT.bug("scale_missing", "x", ("factor:3/4|0.75",), "dx lacks 1 / 0.75."),
    DROPOUT.bug("scale_of_the_dropped", "x", ("factor:3",), "dx is divided by 0.25."),
    DROPOUT.bug("fresh_mask", "x", ("input:key", "mask", "subset"), "The mask is drawn anew."),
    DROPOUT.bug("no_mask", "x", ("mask", "subset", "term"), "What was dropped has a gradient."),
    DROPOUT.bug(
        "mask_of_the_output", "x", ("mask:<", "subset", "term"), "The mask is y > 0, not y != 0."
    ),
]


def two_scales(x, large, small):
    """y = large x + 1e-6 small x^2."""
    return large * x + 1e-6 * small * x**2


def two_scales_rule(bug=""):
    def backward(x, large, small, dy):
        dsmall = 1e-6 * (dy * x**2).sum(0)
        if bug == "tiny_negated":
            dsmall = -dsmall
        if bug == "tiny_zeroed":
            dsmall = jnp.zeros_like(dsmall)
        dx = dy * (large + 2e-6 * small * x)
        if bug == "tiny_term_dropped":
            dx = dy * large
        return dx, (dy * x).sum(0), dsmall

    return rule(two_scales, backward)


TWO_SCALES = Family(
    "two_scales",
    two_scales,
    two_scales_rule,
    normals(((5, 7), (7,), (7,)), ((64, 128), (128,), (128,))),
)
TWO_SCALES_BUGS = [
    TWO_SCALES.bug("tiny_negated", "small", ("sign",), "The tiny gradient is negated."),
    TWO_SCALES.bug("tiny_zeroed", "small", ("zero",), "The tiny gradient is zero."),
    TWO_SCALES.bug(
        "tiny_term_dropped", "x", ("term:drop", "along"), "dx lacks its share of one millionth."
    ),
]


def turn(z, w):
    """y = z w, complex; z is given by its real and imaginary parts (N, 2), w (2,) too."""
    return jnp.stack([z[:, 0] * w[0] - z[:, 1] * w[1], z[:, 0] * w[1] + z[:, 1] * w[0]], 1)


def _conj(w):
    return w * np.array([1, -1], w.dtype)


def turn_rule(bug=""):
    def backward(z, w, dy):
        dz = turn(dy, w if bug == "conjugate_missing" else _conj(w))
        dw = turn(dy, z.T if bug == "dw_unconjugated" else _conj(z).T).sum(0)
        return dz, dw

    return rule(turn, backward)


TURN = Family("complex", turn, turn_rule, normals(((5, 2), (2,)), ((64, 2), (2,))))
TURN_BUGS = [
    TURN.bug("conjugate_missing", "z", ("term:negate", "input:w"), "dz is dy w, not dy conj(w)."),
    TURN.bug("dw_unconjugated", "w", ("term:negate", "input:z"), "dw is dy z, not dy conj(z)."),
]

FAMILIES = [LAYER, MOMENTS, DROPOUT, TWO_SCALES, TURN]
BUGS = LAYER_BUGS + MOMENTS_BUGS + DROPOUT_BUGS + TWO_SCALES_BUGS + TURN_BUGS
