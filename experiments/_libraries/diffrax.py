"""Solves of differential equations by diffrax."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from _libraries._cases import audit, check, normal

check(
    "diffeqsolve",
    lambda y0, w: (
        diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            0.1,
            y0,
            args=w,
        ).ys
    ),
    normal(3),
    normal(3, 3, seed=1),
)


@audit
def neural_ode():
    field = eqx.nn.MLP(2, 2, 8, 2, activation=jax.nn.softplus, key=jax.random.key(0))

    def loss(field, y0, ys):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            0.1,
            y0,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 1, 4)),
            stepsize_controller=diffrax.PIDController(1e-3, 1e-6),
        )
        return jnp.mean((solution.ys - ys) ** 2)

    return loss, field, normal(2), normal(4, 2, seed=1)


@audit
def backsolve_adjoint():
    def loss(w, y0, y1):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            0.1,
            y0,
            args=w,
            adjoint=diffrax.BacksolveAdjoint(),
            stepsize_controller=diffrax.PIDController(1e-5, 1e-5),
        )
        return jnp.mean((solution.ys[-1] - y1) ** 2)

    return loss, normal(3, 3), normal(3, seed=1), normal(3, seed=2)


@audit
def stochastic():
    def loss(params, y0):
        path = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (2,), jax.random.key(0))
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: -params["k"] * y),
            diffrax.ControlTerm(lambda t, y, args: jnp.diag(params["s"]), path),
        )
        adjoint = diffrax.DirectAdjoint()
        solution = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 0.1, y0, adjoint=adjoint)
        return jnp.sum(solution.ys[-1] ** 2)

    return loss, {"k": np.float32(0.5), "s": np.float32([0.1, 0.2])}, normal(2)


@audit
def stiff_reactions():
    def field(t, y, k):
        fast = k[0] * y[0] - k[1] * y[1]
        return jnp.stack([-fast, fast - k[2] * y[1] ** 2])

    def loss(k, y0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Kvaerno3(),
            0.0,
            1.0,
            0.05,
            y0,
            args=k,
            stepsize_controller=diffrax.PIDController(1e-4, 1e-6),
        )
        return jnp.sum(solution.ys[-1] ** 2)

    return loss, np.float32([1, 0.5, 2]), np.float32([1, 0.2])
