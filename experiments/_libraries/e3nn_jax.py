"""Equivariant layers of e3nn."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from _libraries._cases import audit, check, normal


def harmonics(normalize, **options):
    def f(x):
        vectors = e3nn.IrrepsArray("1o", x)
        return e3nn.spherical_harmonics("0e+1o+2e", vectors, normalize, **options).array

    return f


def harmonics_between(positions, pairs):
    i, j = pairs
    vectors = e3nn.IrrepsArray("1o", positions[j] - positions[i])
    return e3nn.spherical_harmonics("0e+1o+2e", vectors, True)


check("spherical_harmonics", harmonics(True), normal(4, 3))
check("spherical_harmonics_as_they_are", harmonics(False), normal(4, 3))
check(
    "spherical_harmonics_legendre",
    harmonics(True, algorithm=("legendre", "dense", "custom_jvp")),
    normal(4, 3),
)


@audit
def tensor_product():
    def loss(w, positions, features):
        given = e3nn.IrrepsArray("1o", positions)
        angles = e3nn.spherical_harmonics("0e+1o+2e", given, True)
        product = e3nn.tensor_product(e3nn.IrrepsArray("2x0e+1o", features), angles)
        return jnp.sum((product.array @ w) ** 2)

    width = e3nn.tensor_product("2x0e+1o", "0e+1o+2e").dim
    return loss, normal(width, 2, scale=0.3), normal(4, 3, seed=1), normal(4, 5, seed=2)


@audit
def forces():
    pairs = np.triu_indices(4, 1)

    def energy(w, positions):
        i, j = pairs
        r = jnp.linalg.norm(positions[j] - positions[i], axis=-1)
        radial = e3nn.bessel(r, 3, 3.0).sum(-1) * e3nn.soft_envelope(r, 3.0)
        angular = jax.nn.silu(harmonics_between(positions, pairs).array @ w)
        return jnp.sum(angular * radial[:, None])

    def loss(w, positions, wanted):
        return jnp.mean((jax.grad(energy, 1)(w, positions) - wanted) ** 2)

    return loss, normal(9, 2), normal(4, 3, seed=1), normal(4, 3, seed=2)
