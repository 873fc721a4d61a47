"""Rules of the wrong form: dtypes, trees, integer arguments, a fwd that is not the primal.

Their gradients are right, or missing; here the residuals are named, so `rule` is not used.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from planted._bug import Family, normal, normals, sizes


def lookup(table, ids, w):
    """y = table[ids] w."""
    return jnp.asarray(table)[ids] @ w


def lookup_rule(bug=""):
    f = jax.custom_vjp(lookup)

    def fwd(table, ids, w):
        y = lookup(table, ids, w)
        if bug == "fwd_is_not_the_primal":
            y = y + 0.01 * y**2
        if bug == "fwd_in_bf16":
            y = y.astype(jnp.bfloat16).astype(y.dtype)
        return y, (table, ids, w)

    def bwd(res, dy):
        table, ids, w = res
        rows = jnp.asarray(table)[ids]
        dtable = jnp.zeros_like(table).at[ids].add(dy @ w.T)
        dw, dids = rows.T @ dy, None
        if bug == "dense_zeros_for_integers":
            dids = jnp.zeros_like(ids)
        if bug == "floats_for_integers":
            dids = jnp.zeros(ids.shape, dy.dtype)
        if bug == "gradient_in_bf16":
            dw = dw.astype(jnp.bfloat16)
        if bug == "none_for_a_float":
            dw = None
        if bug == "one_gradient_missing":
            return dtable, dids
        if bug == "shape_kept_per_row":
            dtable = dy @ w.T
        if bug == "counts_its_calls":
            io_callback(_count, None, dy.sum())
        return dtable, dids, dw

    f.defvjp(fwd, bwd)
    return f


CALLS = []


def _count(total):
    CALLS.append(float(total))


def _tokens(rng, size):
    v, d, f, n = sizes(size, (11, 5, 3, 7), (128, 64, 32, 256))
    return normal(rng, v, d), rng.integers(0, v, n).astype(np.int32), normal(rng, d, f)


LOOKUP = Family("structure", lookup, lookup_rule, _tokens)
LOOKUP_BUGS = [
    LOOKUP.bug(
        "dense_zeros_for_integers",
        "ids",
        ("structure",),
        "The integer argument gets an array of integer zeros, not None.",
        "STRUCTURE",
    ),
    LOOKUP.bug(
        "floats_for_integers",
        "ids",
        ("structure",),
        "The integer argument gets an array of float zeros, not None.",
        "STRUCTURE",
    ),
    LOOKUP.bug(
        "gradient_in_bf16",
        "w",
        ("structure:dtype|bfloat16", "precision"),
        "dw is returned in bfloat16 for a float32 w.",
        "STRUCTURE",
        "PRECISION",
    ),
    LOOKUP.bug("none_for_a_float", "w", ("zero", "structure"), "dw is None, which means zero."),
    LOOKUP.bug(
        "one_gradient_missing",
        "w",
        ("structure",),
        "The backward returns two gradients for three arguments.",
        "STRUCTURE",
    ),
    LOOKUP.bug(
        "shape_kept_per_row",
        "table",
        ("structure:shape",),
        "dtable is not scattered: it has the shape of the rows read.",
        "STRUCTURE",
    ),
    LOOKUP.bug(
        "fwd_is_not_the_primal",
        "",
        ("structure:fwd|primal|output",),
        "What fwd returns is not what the primal returns.",
        "STRUCTURE",
        "WRONG",
    ),
    LOOKUP.bug(
        "fwd_in_bf16",
        "",
        ("structure:fwd|primal|output", "precision"),
        "fwd rounds its output to bfloat16, the primal does not.",
        "STRUCTURE",
        "PRECISION",
    ),
    LOOKUP.bug(
        "counts_its_calls",
        "",
        ("structure:effect|callback",),
        "The backward has a side effect: it counts on the host.",
        "STRUCTURE",
    ),
]


def split(params):
    """y = a b for params {a, b}."""
    return params["a"] * params["b"]


def split_rule(bug=""):
    f = jax.custom_vjp(split)

    def bwd(params, dy):
        da, db = dy * params["b"], dy * params["a"]
        if bug == "names_swapped":
            da, db = db, da
        if bug == "tuple_for_dict":
            return ((da, db),)
        return ({"a": da, "b": db},)

    f.defvjp(lambda params: (split(params), params), bwd)
    return f


def _two(rng, size):
    a, b = normals(((5, 7), (5, 7)), ((64, 128), (64, 128)))(rng, size)
    return ({"a": a, "b": b},)


SPLIT = Family("tree", split, split_rule, _two)
SPLIT_BUGS = [
    SPLIT.bug("names_swapped", "params.a params.b", ("swap",), "The two names are swapped."),
    SPLIT.bug(
        "tuple_for_dict",
        "params.a params.b",
        ("structure:tree",),
        "A tuple of gradients for a dict of parameters.",
        "STRUCTURE",
    ),
]

FAMILIES = [LOOKUP, SPLIT]
BUGS = LOOKUP_BUGS + SPLIT_BUGS
