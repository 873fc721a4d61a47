"""Adjoints of solves and iterations: not transposed, cut short, or with a stage left out."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from planted._bug import Family, normal, normals, rule, sizes
from planted._jvp import jvp_rule


def solve(a, b):
    """The x of a x = b."""
    return jnp.linalg.solve(a, b)


def solve_rule(bug=""):
    def backward(a, b, dy):
        x = solve(a, b)
        db = solve(a if bug == "not_transposed" else a.T, dy)
        da = -jnp.outer(db, x)
        if bug == "da_transposed":
            da = da.T
        if bug == "da_sign":
            da = -da
        if bug == "dy_in_da":
            da = -jnp.outer(dy, x)
        return da, db

    return rule(solve, backward)


def _system(rng, size):
    (n,) = sizes(size, (4,), (32,))
    return (normal(rng, n, n) + 3 * n**0.5 * np.eye(n)).astype(np.float32), normal(rng, n)


SOLVE = Family("solve", solve, solve_rule, _system)
SOLVE_BUGS = [
    SOLVE.bug("not_transposed", "a b", ("input:a with axes", "term:transpose"), "a for a^T."),
    SOLVE.bug("da_transposed", "a", ("transpose",), "da is transposed."),
    SOLVE.bug("da_sign", "a", ("sign",), "da has the wrong sign."),
    SOLVE.bug("dy_in_da", "a", ("term:solve|drop|of dy", "along:dy"), "da has dy for db."),
]


def lower_solve(low, b):
    """The x of L x = b, L the lower triangle of low."""
    return solve_triangular(low, b, lower=True)


def lower_solve_rule(bug=""):
    def backward(low, b, dy):
        x = lower_solve(low, b)
        if bug == "upper_of_l":
            db = solve_triangular(low.T, dy, lower=True)
        elif bug == "not_transposed":
            db = lower_solve(low, dy)
        else:
            db = solve_triangular(low, dy, lower=True, trans=1)
        dl = -db @ x.T
        if bug == "dl_full":
            return dl, db
        return jnp.tril(dl, -1 if bug == "diagonal_missing" else 0), db

    return rule(lower_solve, backward)


def _lower(rng, size):
    n, m = sizes(size, (4, 3), (32, 8))
    return (normal(rng, n, n) + 4 * np.eye(n)).astype(np.float32), normal(rng, n, m)


LOWER = Family("lower_solve", lower_solve, lower_solve_rule, _lower)
LOWER_BUGS = [
    LOWER.bug("not_transposed", "low b", ("input:low with axes", "term:transpose"), "L for L^T."),
    LOWER.bug("upper_of_l", "low b", ("input:low", "term:lower|transpose"), "It reads the upper."),
    LOWER.bug("dl_full", "low", ("subset:triang|diagonal", "mask", "term:tri"), "dl is full."),
    LOWER.bug("diagonal_missing", "low", ("subset:diagonal",), "The diagonal of dl is zero."),
]


def factor(a):
    """The lower L of L L^T = the symmetric part of a."""
    return jnp.linalg.cholesky((a + a.T) / 2)


def factor_rule(bug=""):
    """dS = L^-T Phi(L^T dL) L^-1 symmetrised, Phi the lower triangle, its diagonal halved."""

    def backward(a, dy):
        low = factor(a)
        inner = jnp.tril(low.T @ jnp.tril(dy))
        if bug == "upper_phi":
            inner = jnp.triu(low.T @ jnp.tril(dy))
        if bug != "diagonal_not_halved":
            inner = inner - jnp.diag(jnp.diag(inner)) / 2
        if bug == "l_not_transposed":
            inner = jnp.tril(low @ jnp.tril(dy))
            inner = inner - jnp.diag(jnp.diag(inner)) / 2
        left = solve_triangular(low, inner, lower=True, trans=1)
        ds = solve_triangular(low, left.T, lower=True, trans=1).T
        return (ds if bug == "not_symmetrised" else (ds + ds.T) / 2,)

    return rule(factor, backward)


def _definite(rng, size):
    (n,) = sizes(size, (4,), (24,))
    m = normal(rng, n, n)
    return ((m @ m.T / n + np.eye(n)).astype(np.float32),)


FACTOR = Family("factor", factor, factor_rule, _definite)
FACTOR_BUGS = [
    FACTOR.bug("diagonal_not_halved", "a", ("term:halve|double|diag",), "Phi keeps the diagonal."),
    FACTOR.bug("upper_phi", "a", ("term:tri|transpose",), "Phi is the upper triangle."),
    FACTOR.bug("l_not_transposed", "a", ("term:transpose",), "L dL stands for L^T dL."),
    FACTOR.bug(
        "not_symmetrised", "a", ("transpose:symm", "term:drop|double"), "It is not symmetrised."
    ),
]

STEPS = 60


def fixed_point(w, x):
    """The z of z = tanh(w z + x), by 60 steps."""
    return lax.fori_loop(0, STEPS, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))


def fixed_point_rule(bug=""):
    def backward(w, x, dy):
        z = fixed_point(w, x)
        slope = 1 - z**2
        system = jnp.eye(len(z)) - slope[:, None] * w
        if bug == "one_step":
            u = dy
        elif bug == "one_neumann_term":
            u = dy + (slope[:, None] * w).T @ dy
        elif bug == "not_transposed":
            u = jnp.linalg.solve(system, dy)
        else:
            u = jnp.linalg.solve(system.T, dy)
        if bug == "sign_of_the_jacobian":
            u = jnp.linalg.solve(2 * jnp.eye(len(z)) - system.T, dy)
        dx = slope * u
        return jnp.outer(dx, z), dx

    return rule(fixed_point, backward)


def _contraction(rng, size):
    (n,) = sizes(size, (4,), (32,))
    return normal(rng, n, n, scale=0.4 / n**0.5), normal(rng, n)


FIXED = Family("fixed_point", fixed_point, fixed_point_rule, _contraction)
FIXED_BUGS = [
    FIXED.bug("one_step", "w x", ("term:drop|step|iteration",), "Only the last step counts."),
    FIXED.bug("one_neumann_term", "w x", ("term:drop|step|iteration",), "Two steps count."),
    FIXED.bug("not_transposed", "w x", ("term:transpose",), "The adjoint is not transposed."),
    FIXED.bug("sign_of_the_jacobian", "w x", ("term:negate|sign",), "I + J stands for I - J."),
]


def square_root(x):
    """sqrt(x) of x > 0 by 30 steps of Newton."""
    return lax.fori_loop(0, 30, lambda _, y: (y + x / y) / 2, jnp.ones_like(x))


def square_root_jvp_rule(bug=""):
    def tangent(x, xt):
        y = square_root(x)
        if bug == "derivative_of_x":
            return xt / (2 * x)
        if bug == "two_missing":
            return xt / y
        return xt / (2 * y)

    return jvp_rule(square_root, tangent)


def _above_zero(rng, size):
    return (rng.uniform(0.5, 3, sizes(size, (9,), (256,))).astype(np.float32),)


NEWTON = Family("square_root_jvp", square_root, square_root_jvp_rule, _above_zero)
NEWTON_BUGS = [
    NEWTON.bug("derivative_of_x", "x", ("slope", "row_scale:y"), "2 x stands for 2 y."),
    NEWTON.bug("two_missing", "x", ("factor:2",), "The derivative of y^2 is taken for y."),
]


def descent(start, target):
    """Five steps of gradient descent on sum log cosh(z - target)."""
    z = start
    for _ in range(5):
        z = z - 0.4 * jnp.tanh(z - target)
    return z


def descent_rule(bug=""):
    def backward(start, target, dy):
        path = [start]
        for _ in range(5):
            path.append(path[-1] - 0.4 * jnp.tanh(path[-1] - target))
        dz, dtarget = dy, jnp.zeros_like(target)
        for n, z in enumerate(path[-2::-1]):
            if bug == "cut_after_three" and n == 3:
                break
            if bug == "state_after_the_step":
                z = path[-1 - n]
            slope = 0.4 / jnp.cosh(z - target) ** 2
            dtarget = slope * dz if bug == "last_step_overwrites" else dtarget + slope * dz
            dz = dz - slope * dz
        return dz, dtarget

    return rule(descent, backward)


DESCENT = Family("descent", descent, descent_rule, normals(((7,), (7,)), ((256,), (256,))))
DESCENT_BUGS = [
    DESCENT.bug("cut_after_three", "start target", ("term:drop",), "Two of five steps are cut."),
    DESCENT.bug("state_after_the_step", "start target", ("term", "input"), "z is a step ahead."),
    DESCENT.bug("last_step_overwrites", "target", ("term:drop",), "One step's share is kept."),
]

H = 0.3


def runge_kutta(params, y):
    """One step of the classical Runge-Kutta method on y' = tanh(w y + b)."""

    def f(y):
        return jnp.tanh(params["w"] @ y + params["b"])

    k1 = f(y)
    k2 = f(y + H / 2 * k1)
    k3 = f(y + H / 2 * k2)
    k4 = f(y + H * k3)
    return y + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def runge_kutta_rule(bug=""):
    def backward(params, y, dy):
        w, b = params["w"], params["b"]
        at = [y]
        ks = []
        for step in (H / 2, H / 2, H, 0):
            ks.append(jnp.tanh(w @ at[-1] + b))
            at.append(y + step * ks[-1])
        weights = {"weights_of_euler": (1, 0, 0, 0)}.get(bug, (1 / 6, 1 / 3, 1 / 3, 1 / 6))
        steps = (0, H / 2, H / 2, H)  # from each stage to the one before it
        dz, dw, db = dy, jnp.zeros_like(w), jnp.zeros_like(b)
        through = jnp.zeros_like(dy)
        for i in (3, 2, 1, 0):
            dk = H * weights[i] * dy + (steps[i + 1] * through if i < 3 else 0)
            if bug == "fourth_stage_missing" and i == 3:
                dk = 0 * dk
            if bug == "stages_uncoupled":
                dk = H * weights[i] * dy
            da = dk * (1 - ks[i] ** 2)
            through = w @ da if bug == "w_not_transposed" else w.T @ da
            if not (bug == "first_stage_of_dw_missing" and i == 0):
                dw = dw + jnp.outer(da, at[i])
            db = db + da
            dz = dz + through
        return {"w": dw, "b": db}, dz

    return rule(runge_kutta, backward)


def _field(rng, size):
    (n,) = sizes(size, (4,), (32,))
    return {"w": normal(rng, n, n, scale=n**-0.5), "b": normal(rng, n)}, normal(rng, n)


ALL = "params.w params.b y"
KUTTA = Family("runge_kutta", runge_kutta, runge_kutta_rule, _field)
KUTTA_BUGS = [
    KUTTA.bug("fourth_stage_missing", ALL, ("term:drop",), "The fourth stage is left out."),
    KUTTA.bug("stages_uncoupled", ALL, ("term:drop",), "No stage sees the one before it."),
    KUTTA.bug("w_not_transposed", ALL, ("term:transpose",), "w for w^T."),
    KUTTA.bug("first_stage_of_dw_missing", "params.w", ("term:drop",), "dw lacks stage 1."),
    KUTTA.bug("weights_of_euler", ALL, ("term:drop|constant|replace",), "It is Euler's adjoint."),
]

FAMILIES = [SOLVE, LOWER, FACTOR, FIXED, NEWTON, DESCENT, KUTTA]
BUGS = SOLVE_BUGS + LOWER_BUGS + FACTOR_BUGS + FIXED_BUGS + NEWTON_BUGS + DESCENT_BUGS + KUTTA_BUGS
