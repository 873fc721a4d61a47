"""Roots, fits and minima by optimistix, with their implicit derivatives."""

import jax.numpy as jnp
import numpy as np
import optimistix as optx

from _libraries._cases import audit, check, normal, uniform

check(
    "newton",
    lambda t: (
        optx.root_find(lambda y, t: y**3 + y - t, optx.Newton(1e-6, 1e-6), jnp.zeros(3), t).value
    ),
    normal(3),
)
check(
    "fixed_point",
    lambda t: (
        optx.fixed_point(
            lambda y, t: jnp.cos(t * y), optx.FixedPointIteration(1e-6, 1e-6), jnp.zeros(3), t
        ).value
    ),
    uniform(3, low=0.3, high=0.8),
)
check(
    "bfgs",
    lambda t: (
        optx.minimise(
            lambda y, t: jnp.sum((y - t) ** 2 + y**4), optx.BFGS(1e-6, 1e-6), jnp.zeros(3), t
        ).value
    ),
    normal(3),
)
check(
    "levenberg_marquardt",
    lambda t: (
        optx.least_squares(
            lambda y, t: jnp.concatenate([y - t, y**2]),
            optx.LevenbergMarquardt(1e-6, 1e-6),
            jnp.ones(3),
            t,
        ).value
    ),
    normal(3),
)
check(
    "bisection",
    lambda t: (
        optx.root_find(
            lambda y, t: y**3 + y - t,
            optx.Bisection(1e-6, 1e-6),
            jnp.float32(0),
            t,
            options={"lower": -5.0, "upper": 5.0},
        ).value
    ),
    np.float32(1),
)


@audit
def equilibrium_layer():
    def loss(w, x, y):
        def residual(z, x):
            return z - jnp.tanh(w @ z + x)

        z = optx.root_find(residual, optx.Newton(1e-6, 1e-6), jnp.zeros(3), x).value
        return jnp.mean((z - y) ** 2)

    return loss, normal(3, 3, scale=0.3), normal(3, seed=1), normal(3, seed=2)


@audit
def weight_decay_by_validation():
    def loss(log_decay, x, y, x_held_out, y_held_out):
        def inner(w, log_decay):
            return jnp.mean((x @ w - y) ** 2) + jnp.exp(log_decay) * jnp.sum(w**2)

        w = optx.minimise(inner, optx.BFGS(1e-6, 1e-6), jnp.zeros(3), log_decay).value
        return jnp.mean((x_held_out @ w - y_held_out) ** 2)

    train = normal(8, 3), normal(8, seed=1)
    return loss, np.float32(-1), *train, normal(5, 3, seed=2), normal(5, seed=3)


@audit
def fit_of_a_decay():
    def loss(heights, times):
        def residuals(y, seen):
            return seen - y[0] * jnp.exp(-y[1] * times)

        solver = optx.LevenbergMarquardt(1e-5, 1e-5)
        seen = heights * jnp.exp(-0.7 * times)
        return jnp.sum(optx.least_squares(residuals, solver, jnp.ones(2), seen).value)

    return loss, np.linspace(1, 1.5, 6, dtype=np.float32), np.linspace(0, 2, 6, dtype=np.float32)
