"""What rules take and give besides float arrays: integers, keys, trees, options, nothing."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alternatives._rule import (
    B,
    D,
    F,
    Rule,
    V,
    family,
    integers,
    key,
    normal,
    nothing,
    ruled,
    tree,
    weights,
    wide,
)

RULES: list[Rule] = []
rule = family(RULES, "hand")


def no_gradient(x):
    """What an integer argument gets: zeros of the empty type."""
    return np.zeros(np.shape(x), jax.dtypes.float0)


@rule("integer argument: float0", normal(F, D), integers(0, D, F))
def integer_float0():
    def primal(x, i):
        return jnp.take_along_axis(x, i[:, None], -1)[:, 0]

    def bwd(res, dy):
        like, i = res
        hot = jax.nn.one_hot(i, like.shape[-1], dtype=dy.dtype)
        return dy[:, None] * hot, no_gradient(i)

    return ruled(primal, lambda x, i: (primal(x, i), (x, i)), bwd)


@rule("integer argument: None", normal(F, D), integers(0, F, 9))
def integer_none():
    def primal(x, i):
        return x[i]

    def bwd(res, dy):
        like, i = res
        return (wide(jnp.zeros_like(like)).at[i].add(wide(dy)).astype(like.dtype), None)

    return ruled(primal, lambda x, i: (primal(x, i), (x, i)), bwd)


@rule("boolean argument: a mask", normal(F, D), lambda rng, size: rng.random(5) < 0.6)
def boolean_mask():
    def primal(x, keep):
        return jnp.where(keep[0], x, 0) * jnp.sum(keep)

    def bwd(keep, dy):
        return jnp.where(keep[0], dy, 0) * jnp.sum(keep), None

    return ruled(primal, lambda x, keep: (primal(x, keep), keep), bwd)


def dropped(x, bits, rate):
    return jnp.where(jax.random.bernoulli(bits, 1 - rate, x.shape), x / (1 - rate), 0)


@rule("dropout: the key is kept, not the mask", normal(F, D), key())
def dropout():
    def primal(x, key):
        return dropped(x, key, 0.3)

    return ruled(
        primal, lambda x, key: (primal(x, key), key), lambda key, dy: (primal(dy, key), None)
    )


@rule("dropout: a typed key", normal(F, D), lambda rng, size: jax.random.key(int(rng.integers(99))))
def dropout_typed():
    def primal(x, key):
        return dropped(x, key, 0.25)

    return ruled(
        primal, lambda x, key: (primal(x, key), key), lambda key, dy: (primal(dy, key), None)
    )


@rule("scale: nondiff_argnums", normal(F, D))
def nondiff_argnums():
    def primal(p, x):
        return jnp.abs(wide(x)) ** p

    def bwd(p, x, dy):
        return ((p * dy * jnp.abs(wide(x)) ** (p - 1) * jnp.sign(x)).astype(x.dtype),)

    f = ruled(primal, lambda p, x: (primal(p, x), x), bwd, custom_vjp={"nondiff_argnums": (0,)})
    return lambda x: f(3, x)


@rule("activation: nondiff_argnums, a function", normal(F, D))
def nondiff_function():
    def primal(act, x):
        return act(x) * x

    def bwd(act, x, dy):
        y, dact = jax.vjp(act, x)
        return (dy * y + dact(dy * x)[0],)

    f = ruled(primal, lambda a, x: (primal(a, x), x), bwd, custom_vjp={"nondiff_argnums": (0,)})
    return functools.partial(f, jnp.tanh)


@rule("power: nondiff_argnames", normal(F, D, shift=3))
def nondiff_argnames():
    f = ruled(
        lambda x, power=2: x**power,
        lambda x, power=2: (x**power, x),
        lambda power, x, dy: (power * x ** (power - 1) * dy,),
        custom_vjp={"nondiff_argnames": ("power",)},
    )
    return f


@rule("product: symbolic zeros, custom_vjp", normal(F, D), normal(F, D))
def symbolic_zeros():
    def primal(x, z):
        return x * z, x + z

    def fwd(x, z):
        # Only what the arguments that are differentiated need is kept.
        kept = (x.value if z.perturbed else None, z.value if x.perturbed else None)
        return primal(x.value, z.value), kept

    def bwd(res, grads):
        x, z = res
        d0, d1 = (0 if isinstance(d, jax.custom_derivatives.SymbolicZero) else d for d in grads)
        dx, dz = (None if a is None else d0 * a + d1 for a in (z, x))
        return tuple(jnp.zeros_like(x if z is None else z) if d is None else d for d in (dx, dz))

    return ruled(primal, fwd, bwd, symbolic_zeros=True)


@rule(
    "parameters: a dict",
    tree(lambda w, b: {"w": w, "b": b}, weights(D, F), normal(F)),
    normal(B, D),
)
def params_dict():
    def primal(params, x):
        return jnp.tanh(wide(x) @ wide(params["w"]) + wide(params["b"])).astype(x.dtype)

    def bwd(res, dy):
        params, x = res
        dz = wide(dy) * (1 - jnp.tanh(wide(x) @ wide(params["w"]) + wide(params["b"])) ** 2)
        dparams = {"b": jnp.sum(dz, 0), "w": wide(x).T @ dz}
        dparams = {name: d.astype(x.dtype) for name, d in dparams.items()}
        return dparams, (dz @ wide(params["w"]).T).astype(x.dtype)

    return ruled(primal, lambda params, x: (primal(params, x), (params, x)), bwd)


class Gates(NamedTuple):
    """The parameters of a gate; the last one may be missing."""

    w: jax.Array
    scale: jax.Array
    bias: jax.Array | None


@rule(
    "parameters: a named tuple with None inside",
    tree(lambda w, scale: Gates(w, scale, None), weights(D, F), normal(F, shift=1)),
    normal(B, D),
)
def params_named_tuple():
    def primal(gates, x):
        return ((wide(x) @ wide(gates.w)) * wide(gates.scale)).astype(x.dtype)

    def bwd(res, dy):
        gates, x = res
        z, dy = wide(x) @ wide(gates.w), wide(dy)
        dz = dy * wide(gates.scale)
        dgates = Gates(wide(x).T @ dz, jnp.sum(dy * z, 0), None)
        dgates = jax.tree.map(lambda d: d.astype(x.dtype), dgates)
        return dgates, (dz @ wide(gates.w).T).astype(x.dtype)

    return ruled(primal, lambda gates, x: (primal(gates, x), (gates, x)), bwd)


@rule("argument: None for no bias", normal(B, D), weights(D, F), nothing())
def none_argument():
    def primal(x, w, b):
        y = x @ w
        return y if b is None else y + b

    def bwd(res, dy):
        x, w = res
        return dy @ w.T, x.T @ dy, None

    return ruled(primal, lambda x, w, b: (primal(x, w, b), (x, w)), bwd)


@rule("argument: unused", normal(F, D), normal(D))
def unused_argument():
    def primal(x, spare):
        return jnp.sin(x)

    def bwd(res, dy):
        x, spare = res
        return dy * jnp.cos(x), jnp.zeros_like(spare)

    return ruled(primal, lambda x, spare: (primal(x, spare), (x, spare)), bwd)


@rule("argument: no rows", normal(F, D), normal(0, D))
def empty_argument():
    def primal(x, more):
        return jnp.concatenate([x, more]) * 2

    def bwd(_, dy):
        return 2 * dy, jnp.zeros((0, dy.shape[-1]), dy.dtype)

    return ruled(primal, lambda x, more: (primal(x, more), None), bwd)


@rule("argument: a scalar", normal(F, D), normal())
def scalar_argument():
    def primal(x, scale):
        return x * scale

    def bwd(res, dy):
        x, scale = res
        return dy * scale, jnp.sum(wide(dy) * wide(x)).astype(scale.dtype)

    return ruled(primal, lambda x, scale: (primal(x, scale), (x, scale)), bwd)


@rule("outputs: three, one of integers", normal(F, V))
def integer_output():
    def primal(x):
        top = jnp.max(x, -1)
        return {"top": top, "at": jnp.argmax(x, -1), "rest": jnp.sum(wide(x), -1) - wide(top)}

    def bwd(res, dy):
        x, at = res
        hot = jax.nn.one_hot(at, x.shape[-1], dtype=wide(x).dtype)
        dx = wide(dy["top"])[:, None] * hot + dy["rest"][:, None] * (1 - hot)
        return (dx.astype(x.dtype),)

    return ruled(primal, lambda x: (primal(x), (x, jnp.argmax(x, -1))), bwd)


@rule("outputs: one without a gradient to give", normal(F, D))
def constant_output():
    def primal(x):
        return jnp.square(x), jnp.ones(3, x.dtype)

    return ruled(primal, lambda x: (primal(x), x), lambda x, dy: (2 * x * dy[0],))


@rule("closure: a constant array", normal(B, D))
def closed_over():
    c = np.linspace(-1, 1, 5, dtype=np.float32)

    def primal(x):
        return x[..., None] * c.astype(x.dtype)

    return ruled(
        primal,
        lambda x: (primal(x), None),
        lambda _, dy: (jnp.sum(wide(dy) * c, -1).astype(dy.dtype),),
    )


@rule(
    "straight through: rounding",
    normal(F, D),
    reference=lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x),
)
def straight_through():
    """Meant so: the gradient of the identity, as the reference says."""
    return ruled(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, dy: (dy,))


@rule("gradient reversal", normal(F, D), reference=lambda x: jax.lax.stop_gradient(2 * x) - x)
def reversal():
    """Meant so: minus the gradient, as the reference says."""
    return ruled(lambda x: x * 1, lambda x: (x * 1, None), lambda _, dy: (-dy,))
