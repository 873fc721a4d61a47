"""Projections, perturbed maxima and implicit derivatives of jaxopt."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jaxopt import perturbations, projection
from jaxopt.isotonic import isotonic_l2_pav

from _libraries._cases import (
    Bug,
    audit,
    check,
    normal,
    positive_definite,
    slopes,
    through_jit,
    uniform,
)

KEY = jax.random.key(0)


def one_hot_of_largest(v):
    return jax.nn.one_hot(jnp.argmax(v), 5)


def cube_root(start, t):
    """The root of x^3 + x = t by Newton's method."""

    def step(_, x):
        return x - (x**3 + x - t) / (3 * x * x + 1)

    return jax.lax.fori_loop(0, 30, step, start)


def _slope_of_plan():
    """The derivative of an element of the plan by an element of the costs."""
    sides = jnp.ones(3) / 3, jnp.ones(4) / 4
    costs = normal(3, 4, scale=0.3)
    return slopes(
        lambda t: projection.projection_transport(jnp.asarray(costs).at[0, 0].add(t), sides)[0, 0],
        0.0,
    )


root = jaxopt.implicit_diff.custom_root(lambda x, t: x**3 + x - t)(cube_root)
fixed = jaxopt.implicit_diff.custom_fixed_point(lambda x, t: jnp.cos(t * x))(
    lambda start, t: jax.lax.fori_loop(0, 200, lambda _, x: jnp.cos(t * x), start)
)

check("projection_simplex", projection.projection_simplex, normal(6))
check("projection_simplex_value", projection.projection_simplex, normal(6), np.float32(1.5))
check("projection_sparse_simplex", lambda x: projection.projection_sparse_simplex(x, 3), normal(6))
check("projection_l1_ball", projection.projection_l1_ball, normal(6, scale=3))
BOX = jnp.zeros(5), jnp.ones(5), jnp.arange(1.0, 6) / 5, 1.0

check(
    "projection_box_section",
    lambda x: projection.projection_box_section(x, BOX),
    normal(5),
    bug=Bug(
        "STRUCTURE",
        "jax.grad of jax.jit of it raises: the rule keeps values of the call that it was made in",
        lambda: through_jit(lambda x: projection.projection_box_section(x, BOX)[0], normal(5)),
    ),
)
check(
    "projection_affine_set",
    lambda x, a, b: projection.projection_affine_set(x, (a, b)),
    normal(5),
    normal(2, 5, seed=1),
    normal(2, seed=2),
)
check(
    "projection_transport",
    lambda s: projection.projection_transport(s, (jnp.ones(3) / 3, jnp.ones(4) / 4)),
    normal(3, 4),
    bug=Bug("VACUOUS", "the plan is behind a stop_gradient: its gradient is zero", _slope_of_plan),
)
check(
    "kl_projection_transport",
    lambda s: projection.kl_projection_transport(s, (jnp.ones(3) / 3, jnp.ones(4) / 4)),
    normal(3, 4),
)
check("isotonic_l2_pav", isotonic_l2_pav, normal(6))
check("custom_root", lambda t: root(jnp.zeros(3), t), normal(3))
check("custom_fixed_point", lambda t: fixed(jnp.zeros(3), t), uniform(3, low=0.3, high=0.8))
check("sparsemax_loss", lambda s: jaxopt.loss.multiclass_sparsemax_loss(1, s), normal(5))
check(
    "bisection",
    lambda t: (
        jaxopt.Bisection(lambda x, t: x**3 - x - t, 1.0, 2.5, check_bracket=False)
        .run(None, t)
        .params
    ),
    np.float32(2),
)
check(
    "gradient_descent",
    lambda decay: (
        jaxopt.GradientDescent(
            lambda w, decay: (
                jnp.sum((normal(6, 3) @ w - normal(6, seed=2)) ** 2) + decay * jnp.sum(w**2)
            ),
            maxiter=500,
            tol=1e-6,
        )
        .run(jnp.zeros(3), decay)
        .params
    ),
    np.float32(1),
)


@audit
def ridge_by_validation():
    def loss(log_decay, x, y, x_held_out, y_held_out):
        def inner(w, log_decay):
            return jnp.mean((x @ w - y) ** 2) + jnp.exp(log_decay) * jnp.sum(w**2)

        solver = jaxopt.LBFGS(inner, tol=1e-6, maxiter=200)
        w = solver.run(jnp.zeros(3), log_decay).params
        return jnp.mean((x_held_out @ w - y_held_out) ** 2)

    train = normal(8, 3), normal(8, seed=1)
    return loss, np.float32(-1), *train, normal(5, 3, seed=2), normal(5, seed=3)


@audit
def projected_gradient():
    def loss(t, k):
        solver = jaxopt.ProjectedGradient(
            lambda b, t: 0.5 * b @ k @ b - b @ t,
            projection=projection.projection_simplex,
            maxiter=500,
            tol=1e-6,
        )
        return jnp.sum(solver.run(jnp.ones(4) / 4, None, t).params ** 2)

    return loss, normal(4), positive_definite(4)


@audit
def equilibrium_layer():
    def loss(params, x, y):
        solver = jaxopt.FixedPointIteration(
            lambda z, params, x: jnp.tanh(x @ params["u"] + z @ params["w"]),
            maxiter=100,
            tol=1e-6,
            implicit_diff=True,
        )
        return jnp.mean((solver.run(jnp.zeros((4, 3)), params, x).params - y) ** 2)

    params = {"u": normal(2, 3), "w": normal(3, 3, scale=0.2)}
    return loss, params, normal(4, 2, seed=1), normal(4, 3, seed=2)


@audit
def quadratic_program():
    def loss(c, q, a, b):
        solver = jaxopt.EqualityConstrainedQP()
        return jnp.sum(solver.run(params_obj=(q, c), params_eq=(a, b)).params.primal ** 2)

    return loss, normal(3), positive_definite(3), normal(1, 3, seed=1), normal(1, seed=2)


@audit(expect={"forward_pert": "the derivative of a mean over noise, of which it has a few draws"})
def perturbed_argmax_layer():
    best = perturbations.make_perturbed_argmax(one_hot_of_largest, 100, 0.5)

    def loss(w, x, y):
        return jnp.mean((jax.vmap(lambda v: best(v, KEY))(x @ w) - y) ** 2)

    return loss, normal(3, 5), normal(4, 3, seed=1), jax.nn.one_hot(jnp.arange(4), 5)
