"""Rules written forward: custom_jvp of one and of several arguments."""

import functools

import jax
import jax.numpy as jnp

from alternatives._rule import D, F, Rule, family, normal, touching, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")


@rule("product with exp: custom_jvp of two", touching((0.5,), F, D), normal(F, D))
def jvp_of_two():
    @jax.custom_jvp
    def f(x, z):
        return wide(x) * jnp.exp(wide(z))

    @f.defjvp
    def jvp(primals, tangents):
        (x, z), (dx, dz) = primals, tangents
        y = f(x, z)
        return y, jnp.exp(wide(z)) * wide(dx) + y * wide(dz)

    return f


@rule("logaddexp: custom_jvp.defjvps", normal(F, D), normal(F, D))
def jvps():
    f = jax.custom_jvp(lambda x, z: jnp.maximum(x, z) + jnp.log1p(jnp.exp(-jnp.abs(x - z))))
    f.defjvps(
        lambda dx, y, x, z: dx * jax.nn.sigmoid(x - z),
        lambda dz, y, x, z: dz * jax.nn.sigmoid(z - x),
    )
    return f


@rule("product: symbolic zeros, custom_jvp", normal(F, D), normal(F, D))
def jvp_symbolic_zeros():
    f = jax.custom_jvp(lambda x, z: x * z)

    def jvp(primals, tangents):
        (x, z), dy = primals, jnp.zeros_like(primals[0])
        for tangent, other in zip(tangents, (z, x), strict=True):
            if not isinstance(tangent, jax.custom_derivatives.SymbolicZero):
                dy = dy + tangent * other
        return x * z, dy

    f.defjvp(jvp, symbolic_zeros=True)
    return f


@rule("step size: custom_jvp with nondiff_argnums", normal(F, D))
def jvp_nondiff():
    f = jax.custom_jvp(lambda n, x: jnp.sin(n * x), nondiff_argnums=(0,))

    @f.defjvp
    def jvp(n, primals, tangents):
        (x,), (dx,) = primals, tangents
        return f(n, x), n * jnp.cos(n * x) * dx

    return functools.partial(f, 2)
