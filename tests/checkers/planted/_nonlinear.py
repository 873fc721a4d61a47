"""Gradients that are not linear in dy: a constant is added, dy is cut, squared, or not used."""

import jax
import jax.numpy as jnp

from planted._bug import Family, normal, normals, rule, sizes


def wave(x):
    """y = sin(x), a vector."""
    return jnp.sin(x)


def wave_rule(bug=""):
    def backward(x, dy):
        if bug == "dead_zone":
            dy = jnp.where(jnp.abs(dy) < 0.5, 0, dy)
        if bug == "absolute":
            dy = jnp.abs(dy)
        if bug == "times_its_largest":
            dy = dy * dy.max()
        if bug == "normalised":
            dy = dy / (jnp.linalg.norm(dy) + 1e-30)
        if bug == "stepped":
            dy = jnp.round(8 * dy) / 8
        if bug == "negative_dropped":
            dy = jnp.maximum(dy, 0)
        dx = jnp.cos(x) * dy
        if bug == "constant_added":
            dx = dx - 1.128
        return (dx,)

    return rule(wave, backward)


WAVE = Family("wave", wave, wave_rule, normals(((9,),), ((256,),)))
WAVE_BUGS = [
    WAVE.bug("constant_added", "x", ("cotangent:dy = 0",), "1.128 is taken off, whatever dy."),
    WAVE.bug("absolute", "x", (r"cotangent:\|dy\||minus dy",), "It is the gradient of |dy|."),
    WAVE.bug("dead_zone", "x", ("cotangent:not linear",), "dy below 0.5 is taken for 0."),
    WAVE.bug("times_its_largest", "x", ("cotangent:4 times",), "dy is multiplied by its maximum."),
    WAVE.bug("normalised", "x", ("cotangent:same gradient|norm",), "dy is divided by its norm."),
    WAVE.bug("stepped", "x", ("cotangent:not linear",), "dy is rounded to eighths."),
    WAVE.bug(
        "negative_dropped",
        "x",
        ("cotangent:minus dy|relu|negative",),
        "Negative dy are taken for 0.",
    ),
]


def affine(params, x):
    """y = x w + b, with b each row's own softplus."""
    return x @ params["w"] + jax.nn.softplus(params["b"])


def affine_rule(bug=""):
    def backward(params, x, dy):
        db = dy.sum(0) * jax.nn.sigmoid(params["b"])
        dw = x.T @ dy
        if bug == "decay_of_b":
            db = db + 0.01 * params["b"]
        if bug == "sign_in_dw":
            dw = jnp.sign(dw)
        if bug == "clipped_by_norm":
            norm = jnp.sqrt((dw**2).sum() + (db**2).sum())
            dw, db = dw * jnp.minimum(1, 1 / norm), db * jnp.minimum(1, 1 / norm)
        if bug == "largest_rows_of_dw":
            dw = jnp.where(jnp.abs(dw) < jnp.abs(dw).mean(), 0, dw)
        return {"w": dw, "b": db}, dy @ params["w"].T

    return rule(affine, backward)


def _affine_args(rng, size):
    n, d, h = sizes(size, (5, 7, 3), (64, 128, 32))
    return {"w": normal(rng, d, h), "b": normal(rng, h)}, normal(rng, n, d)


AFFINE = Family("affine", affine, affine_rule, _affine_args)
AFFINE_BUGS = [
    AFFINE.bug("decay_of_b", "params.b", ("cotangent:dy = 0", "along:b"), "0.01 b leaks into db."),
    AFFINE.bug("sign_in_dw", "params.w", ("cotangent:sign|same gradient",), "dw is its sign."),
    AFFINE.bug(
        "clipped_by_norm",
        "params.w params.b",
        ("cotangent:not linear",),
        "Gradients of a norm above 1 are scaled down to it.",
    ),
    AFFINE.bug(
        "largest_rows_of_dw",
        "params.w",
        ("cotangent:not linear",),
        "Elements of dw below the mean are dropped.",
    ),
]


def energy(x):
    """y = log(sum of e^x) + |x|^2 / 2, a number."""
    return jax.nn.logsumexp(x) + (x**2).sum() / 2


def energy_rule(bug=""):
    def backward(x, dy):
        if bug == "dy_not_used":
            dy = jnp.ones_like(dy)
        if bug == "dy_squared":
            dy = dy**2
        dx = dy * jax.nn.softmax(x)
        return (dx + x if bug == "dy_in_one_term" else dx + dy * x,)

    return rule(energy, backward)


ENERGY = Family("energy", energy, energy_rule, normals(((7,),), ((512,),)))
ENERGY_BUGS = [
    ENERGY.bug("dy_not_used", "x", ("cotangent:one|not depend",), "dy is not used: it is a loss."),
    ENERGY.bug("dy_squared", "x", ("cotangent:squared|4 times",), "dy is squared."),
    ENERGY.bug("dy_in_one_term", "x", ("cotangent:dy = 0",), "The second term lacks dy."),
]


def sums(x, y):
    """The sums of x y and of x^2 y along the rows."""
    return (x * y).sum(1), (x**2 * y).sum(1)


def sums_rule(bug=""):
    def backward(x, y, dy):
        d, e = (a[:, None] for a in dy)
        if bug == "cotangents_multiplied":
            d = d * e
        dx = d * y + 2 * e * x * y
        if bug == "second_taken_for_one":
            dx = d * y + 2 * x * y
        return dx, d * x + e * x**2

    return rule(sums, backward)


SUMS = Family("sums", sums, sums_rule, normals(((5, 7), (5, 7)), ((64, 128), (64, 128))))
SUMS_BUGS = [
    SUMS.bug(
        "cotangents_multiplied",
        "x y",
        ("cotangent:not linear",),
        "The two cotangents are multiplied.",
    ),
    SUMS.bug(
        "second_taken_for_one",
        "x",
        ("cotangent:dy = 0|output 1's ones",),
        "The cotangent of the second output is taken for 1.",
    ),
]

FAMILIES = [WAVE, AFFINE, ENERGY, SUMS]
BUGS = WAVE_BUGS + AFFINE_BUGS + ENERGY_BUGS + SUMS_BUGS
