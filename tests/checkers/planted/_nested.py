"""Rules deep inside a program: under a scan, a cond, a remat, a jit, behind a static argument."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from planted._bug import Family, normal, normals, rule, sizes


def dense(h, w):
    """y = tanh(h w)."""
    return jnp.tanh(h @ w)


def dense_rule(bug):
    """The rule that the programs below contain."""

    def backward(h, w, dy):
        da = dy if bug == "slope_missing" else dy * (1 - dense(h, w) ** 2)
        dw = h.T @ da
        if bug == "dw_transposed":
            dw = dw.T
        if bug == "dw_zero":
            dw = jnp.zeros_like(w)
        return da @ w.T, dw

    return rule(dense, backward)


def program(build):
    """The primal and the builder of rules of a program around `dense`."""
    return build(dense), lambda bug="": build(dense_rule(bug))


def _stack(layer):
    def stack(x, ws):
        return lax.scan(lambda h, w: (layer(h, w), None), x, ws)[0]

    return stack


def _branch(layer):
    def branch(x, w, flag):
        return lax.cond(flag, layer, lambda x, w: x @ w, x, w)

    return branch


def _remat(layer):
    def remat(x, w):
        return jax.checkpoint(layer)(jax.checkpoint(layer)(x, w), w)

    return remat


def _jitted(layer):
    def jitted(params, x):
        return jax.jit(layer)(x, params["first"]["w"]) @ params["second"]["w"]

    return jitted


SQUARES = normals(((5, 7), (3, 7, 7)), ((64, 32), (4, 32, 32)), 0.4)
STACK = Family("stack", *program(_stack), SQUARES)
STACK_BUGS = [
    STACK.bug("slope_missing", "x ws", ("term:tanh|drop", "slope"), "A scanned rule lacks tanh'."),
    STACK.bug("dw_transposed", "ws", ("transpose",), "A scanned rule has dw transposed."),
]


def _flagged(rng, size):
    d = sizes(size, (7,), (64,))[0]
    return normal(rng, 5, d), normal(rng, d, d, scale=0.3), np.bool_(True)


BRANCH = Family("branch", *program(_branch), _flagged)
BRANCH_BUGS = [
    BRANCH.bug("dw_zero", "w", ("zero",), "dw is zero in the branch taken."),
    BRANCH.bug("slope_missing", "x w", ("term:tanh|drop", "slope"), "A branch's rule lacks tanh'."),
]

REMAT = Family("remat", *program(_remat), normals(((5, 7), (7, 7)), ((64, 32), (32, 32)), 0.4))
REMAT_BUGS = [
    REMAT.bug("dw_transposed", "w", ("transpose", "term"), "A rematerialised rule transposes dw."),
]


def _params(rng, size):
    n, d, f = sizes(size, (5, 7, 3), (64, 128, 32))
    w = {"first": {"w": normal(rng, d, d, scale=0.3)}, "second": {"w": normal(rng, d, f)}}
    return w, normal(rng, n, d)


JITTED = Family("jitted", *program(_jitted), _params)
JITTED_BUGS = [
    JITTED.bug("dw_transposed", "params.first.w", ("transpose",), "dw of the first is transposed."),
    JITTED.bug("dw_zero", "params.first.w", ("zero",), "dw of the first is zero."),
]


def power(x):
    """y = x^3."""
    return x**3


def power_rule(bug=""):
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def raised(n, x):
        return x**n

    def fwd(n, x):
        return x**n, x

    def bwd(n, x, dy):
        if bug == "exponent_not_lowered":
            return (dy * n * x**n,)
        if bug == "factor_lowered":
            return (dy * (n - 1) * x ** (n - 1),)
        return (dy * n * x ** (n - 1),)

    raised.defvjp(fwd, bwd)

    def power(x):
        return raised(3, x)

    return power


POWER = Family("power", power, power_rule, normals(((5, 7),), ((64, 128),)))
POWER_BUGS = [
    POWER.bug(
        "exponent_not_lowered",
        "x",
        ("row_scale:times x", "along", "term", "slope"),
        "It has x^3.",
    ),
    POWER.bug("factor_lowered", "x", ("factor:2/3|0.66",), "The factor is 2 for 3."),
]


def lowered(x, w):
    """y = x w."""
    return x @ w


def lowered_rule(bug=""):
    def backward(x, w, dy):
        dx, dw = dy @ w.T, x.T @ dy
        if bug == "dw_in_bf16":
            dw = x.astype(jnp.bfloat16).T @ dy.astype(jnp.bfloat16)
        if bug == "x_kept_in_f16":
            dw = x.astype(jnp.float16).astype(x.dtype).T @ dy
        if bug == "dx_through_f16":
            dx = dx.astype(jnp.float16)
        if bug == "w_in_f8":
            dx = dy @ w.astype(jnp.float8_e4m3fn).astype(w.dtype).T
        return dx, dw

    return rule(lowered, backward)


LOWERED = Family(
    "lowered", lowered, lowered_rule, normals(((5, 7), (7, 3)), ((64, 128), (128, 32)))
)
LOWERED_BUGS = [
    LOWERED.bug("dw_in_bf16", "w", ("precision",), "dw is a product in bfloat16.", "PRECISION"),
    LOWERED.bug("x_kept_in_f16", "w", ("precision",), "x is kept in float16.", "PRECISION"),
    LOWERED.bug("dx_through_f16", "x", ("precision",), "dx passes float16.", "PRECISION"),
    LOWERED.bug(
        "w_in_f8", "x", ("precision", "input:w"), "w is rounded to float8.", "PRECISION", "WRONG"
    ),
]

FAMILIES = [STACK, BRANCH, REMAT, JITTED, POWER, LOWERED]
BUGS = STACK_BUGS + BRANCH_BUGS + REMAT_BUGS + JITTED_BUGS + POWER_BUGS + LOWERED_BUGS
