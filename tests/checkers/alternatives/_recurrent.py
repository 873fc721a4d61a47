"""Recurrences, solvers and fixed points: the backward is a scan, a solve or an iteration."""

import jax
import jax.numpy as jnp
from jax import lax

from alternatives._rule import B, D, F, Rule, T, family, normal, ruled, uniform, weights, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")

FULL = ("float32", "float64")  # dense solves have no bfloat16


@rule(
    "recurrent: tanh cell, reverse scan",
    normal(T, B, 5),
    weights(5, 7),
    weights(7, 7),
    normal(B, 7),
)
def recurrent():
    def states(x, w, u, h0):
        def step(h, xt):
            h = jnp.tanh(wide(xt) @ wide(w) + h @ wide(u))
            return h, h

        return lax.scan(step, wide(h0), x)[1]

    def primal(x, w, u, h0):
        return states(x, w, u, h0).astype(x.dtype)

    def bwd(res, dy):
        x, w, u, h0 = res
        h = states(*res)
        before = jnp.concatenate([wide(h0)[None], h[:-1]])

        def step(carry, now):
            dh, dw, du = carry
            xt, ht, h_before, dyt = now
            dz = (dh + wide(dyt)) * (1 - ht * ht)
            carry = (dz @ wide(u).T, dw + wide(xt).T @ dz, du + h_before.T @ dz)
            return carry, dz @ wide(w).T

        start = tuple(jnp.zeros(a.shape, h.dtype) for a in (h0, w, u))
        (dh0, dw, du), dx = lax.scan(step, start, (x, h, before, dy), reverse=True)
        return tuple(d.astype(a.dtype) for d, a in zip((dx, dw, du, dh0), res, strict=True))

    return ruled(primal, lambda *res: (primal(*res), res), bwd)


@rule("linear recurrence: associative scan, reversed", uniform(0.3, 0.9, T, D), normal(T, D))
def linear_recurrence():
    def run(a, x):
        def join(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        return lax.associative_scan(join, (a, x))[1]

    def primal(a, x):
        return run(wide(a), wide(x)).astype(x.dtype)

    def bwd(res, dh):
        a, x = map(wide, res)
        h = run(a, x)
        # The gradient runs back through the same recurrence, each with the next step's a.
        after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        dx = run(after[::-1], wide(dh)[::-1])[::-1]
        da = dx * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        return da.astype(res[0].dtype), dx.astype(res[1].dtype)

    return ruled(primal, lambda a, x: (primal(a, x), (a, x)), bwd)


@rule("reversible block: the inputs from the outputs", normal(F, 5), normal(F, 5), weights(5, 5))
def reversible():
    def half(w, x):
        return jnp.tanh(x @ w)

    def primal(x, z, w):
        x, z, w = map(wide, (x, z, w))
        y = x + half(w, z)
        return y, z + half(w, y)

    def fwd(x, z, w):
        y, u = primal(x, z, w)
        return (y, u), (y, u, w, jnp.zeros((), x.dtype))

    def bwd(res, grads):
        y, u, w, like = res
        w, (dy, du) = wide(w), grads
        z = u - half(w, y)
        s, t = half(w, y), half(w, z)
        ds = du * (1 - s * s)
        dy = dy + ds @ w.T
        dt = dy * (1 - t * t)
        out = (dy, du + dt @ w.T, y.T @ ds + z.T @ dt)
        return tuple(d.astype(like.dtype) for d in out)

    return ruled(primal, fwd, bwd)


system = (normal(6, 6, scale=0.5), normal(6))


def well_conditioned(a):
    return a @ a.T + 2 * jnp.eye(a.shape[0], dtype=a.dtype)


def direct_solve(a, b):
    return jnp.linalg.solve(well_conditioned(a), b)


@rule("linear solve: the transposed solve", normal(6, 6, scale=0.5), normal(6, 3), dtypes=FULL)
def linear_solve():
    def primal(a, b):
        return jnp.linalg.solve(a + 3 * jnp.eye(6, dtype=a.dtype), b)

    def fwd(a, b):
        x = primal(a, b)
        return x, (a, x)

    def bwd(res, dx):
        a, x = res
        db = jnp.linalg.solve(a.T + 3 * jnp.eye(6, dtype=a.dtype), dx)
        return -db @ x.T, db

    return ruled(primal, fwd, bwd)


@rule("conjugate gradients: one more run backward", *system, reference=direct_solve, dtypes=FULL)
def conjugate_gradients():
    """Both runs go to the last digits, so the implicit gradient is the primal's."""

    def solve(a, b):
        def step(_, carry):
            x, r, p = carry
            ap, rr = a @ p, r @ r
            alpha = rr / jnp.maximum(p @ ap, 1e-30)
            r_new = r - alpha * ap
            return x + alpha * p, r_new, r_new + (r_new @ r_new) / jnp.maximum(rr, 1e-30) * p

        return lax.fori_loop(0, 12, step, (jnp.zeros_like(b), b, b))[0]

    def primal(a, b):
        return solve(well_conditioned(a), b)

    def bwd(res, dx):
        a, x = res
        db = solve(well_conditioned(a), dx)
        dm = -jnp.outer(db, x)
        return (dm + dm.T) @ a, db

    def fwd(a, b):
        x = primal(a, b)
        return x, (a, x)

    return ruled(primal, fwd, bwd)


def fixed_point(w, x):
    """z = tanh(w z + x), w small: sixty rounds reach the last digit of float64."""
    return lax.fori_loop(0, 60, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))


@rule(
    "fixed point: the implicit gradient by iteration",
    normal(6, 6, scale=0.15),
    normal(6),
    dtypes=FULL,
)
def implicit():
    def bwd(res, dz):
        w, z = res
        slope = 1 - z * z
        u = lax.fori_loop(0, 60, lambda _, u: dz + w.T @ (slope * u), dz)
        dx = slope * u
        return jnp.outer(dx, z), dx

    def fwd(w, x):
        z = fixed_point(w, x)
        return z, (w, z)

    return ruled(lambda w, x: fixed_point(w, x), fwd, bwd)


@rule("square root: Newton in a while loop", uniform(0.2, 4, F), reference=jnp.sqrt, dtypes=FULL)
def newton():
    """The loop cannot be differentiated backward; its limit can, in closed form."""

    def primal(x):
        def unfinished(carry):
            y, before = carry
            return jnp.any(jnp.abs(y - before) > 4 * jnp.finfo(x.dtype).eps * y)

        def step(carry):
            y, _ = carry
            return (y + x / y) / 2, y

        return lax.while_loop(unfinished, step, (x / 2 + 0.5, jnp.zeros_like(x)))[0]

    def fwd(x):
        y = primal(x)
        return y, y

    return ruled(primal, fwd, lambda y, dy: (dy / (2 * y),))


@rule("root: lax.custom_root", uniform(0.5, 3, F), reference=jnp.cbrt, dtypes=FULL)
def custom_root():
    def solve(f, guess):
        def step(_, y):
            value, slope = jax.jvp(f, (y,), (jnp.ones_like(y),))
            return y - value / slope

        return lax.fori_loop(0, 40, step, guess)

    def cube_root(x):
        return lax.custom_root(
            lambda y: y**3 - x, jnp.ones_like(x), solve, lambda g, y: y / g(jnp.ones_like(y))
        )

    return cube_root


@rule("solve: lax.custom_linear_solve", *system, reference=direct_solve, dtypes=FULL)
def custom_linear_solve():
    def f(a, b):
        m = well_conditioned(a)
        return lax.custom_linear_solve(
            lambda x: m @ x, b, lambda _, b: jnp.linalg.solve(m, b), symmetric=True
        )

    return f


@rule("symmetric eigenvalues: v v^T", normal(5, 5), dtypes=FULL)
def eigenvalues():
    def primal(x):
        return jnp.linalg.eigvalsh(x + x.T)

    def bwd(x, dw):
        _, v = jnp.linalg.eigh(x + x.T)
        return (2 * (v * dw) @ v.T,)

    return ruled(primal, lambda x: (primal(x), x), bwd)


@rule("cholesky: halved lower triangle", normal(5, 5, scale=0.5), dtypes=FULL)
def cholesky():
    def primal(x):
        return jnp.linalg.cholesky(well_conditioned(x))

    def fwd(x):
        low = primal(x)
        return low, (x, low)

    def bwd(res, dlow):
        x, low = res
        phi = jnp.tril(low.T @ jnp.tril(dlow))
        phi = phi - 0.5 * jnp.diag(jnp.diagonal(phi))
        inverse = jax.scipy.linalg.solve_triangular(low, jnp.eye(5, dtype=x.dtype), lower=True)
        dm = inverse.T @ phi @ inverse
        return ((dm + dm.T) @ x,)

    return ruled(primal, fwd, bwd)
