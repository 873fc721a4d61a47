"""Complex arguments, and complex numbers between real ones."""

import jax.numpy as jnp
import numpy as np

from alternatives._rule import D, F, Rule, family, normal, ruled

RULES: list[Rule] = []
rule = family(RULES, "hand")


def complex_normal(*axes):
    def leaf(rng, size):
        return (normal(*axes)(rng, size) + 1j * normal(*axes)(rng, size)).astype(np.complex64)

    return leaf


FULL = ("float32", "float64")


@rule("complex: squared modulus", complex_normal(F, D), dtypes=FULL)
def complex_modulus():
    def primal(z):
        return jnp.real(z * jnp.conj(z))

    return ruled(primal, lambda z: (primal(z), z), lambda z, dy: (2 * dy * jnp.conj(z),))


@rule("complex: a product", complex_normal(F, D), complex_normal(D), dtypes=FULL)
def complex_product():
    def bwd(res, dy):
        z, w = res
        return dy * w, jnp.sum(dy * z, 0)

    return ruled(lambda z, w: z * w, lambda z, w: (z * w, (z, w)), bwd)


@rule("complex inside: power spectrum", normal(F, 8), dtypes=FULL)
def power_spectrum():
    def primal(x):
        return jnp.abs(jnp.fft.fft(x)) ** 2

    def bwd(x, dy):
        return (2 * jnp.real(jnp.fft.fft(dy * jnp.conj(jnp.fft.fft(x)))),)

    return ruled(primal, lambda x: (primal(x), x), bwd)
