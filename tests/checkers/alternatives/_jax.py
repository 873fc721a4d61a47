"""Functions of jax that carry a rule of their own, each on its domain."""

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
from jax import lax
from jax.scipy import stats

from alternatives._rule import D, F, Rule, draw, integers, normal, touching, uniform

RULES: list[Rule] = []


def add(name, f, *leaves, **options):
    """`f` as its users call it: the rule is somewhere inside."""
    RULES.append(Rule(name, lambda: f, draw(*leaves), origin="jax", **options))


FULL = ("float32", "float64")
LOOP = {"notes": "the primal is a while loop: it cannot be differentiated backward"}

x, positive, unit = normal(F, D, scale=2), uniform(0.2, 3, F, D), uniform(0.05, 0.95, F, D)

add("jax.nn.relu", jax.nn.relu, touching((0.0, -0.0), F, D))
add("jax.nn.relu6", jax.nn.relu6, touching((0.0, 6.0), F, D, scale=4))
add("jax.nn.hard_sigmoid", jax.nn.hard_sigmoid, x)
add("jax.nn.hard_silu", jax.nn.hard_silu, x)
add("jax.nn.log_sigmoid", jax.nn.log_sigmoid, x)
add("jax.nn.softplus", jax.nn.softplus, x)
add("jax.nn.mish", jax.nn.mish, x)
add("jax.nn.log1mexp", jax.nn.log1mexp, positive)

add("jnp.logaddexp", jnp.logaddexp, x, x)
add("jnp.logaddexp2", jnp.logaddexp2, x, x)
add("jnp.i0", jnp.i0, x)
add("jnp.sinc", jnp.sinc, touching((0.0,), F, D), notes="a Taylor term of its own at 0")
add(
    "jnp.frexp",
    lambda x: jnp.frexp(x)[0],
    x,
    reference=lambda x: x / jnp.exp2(lax.stop_gradient(jnp.frexp(x)[1].astype(x.dtype))),
    notes="the primal works on bits",
)
add("jnp.linalg.det", jnp.linalg.det, normal(3, 5, 5), dtypes=FULL)
add("jnp.linalg.slogdet", lambda a: jnp.linalg.slogdet(a)[1], normal(3, 5, 5), dtypes=FULL)
add("jnp.linalg.inv", jnp.linalg.inv, normal(3, 4, 4), dtypes=FULL)
add("jnp.linalg.solve", jnp.linalg.solve, normal(6, 6), normal(6, 2), dtypes=FULL)
add("jnp.linalg.pinv", jnp.linalg.pinv, normal(7, 4), dtypes=FULL)
add("jax.scipy.linalg.expm", jax.scipy.linalg.expm, normal(5, 5, scale=0.3), dtypes=FULL)


def spd_cg(a, b):
    m = a @ a.T + 2 * jnp.eye(a.shape[0], dtype=a.dtype)
    tol = 4 * float(jnp.finfo(a.dtype).eps)
    return jax.scipy.sparse.linalg.cg(m, b, tol=tol, maxiter=40)[0]


def spd_solve(a, b):
    return jnp.linalg.solve(a @ a.T + 2 * jnp.eye(a.shape[0], dtype=a.dtype), b)


add(
    "jax.scipy.sparse.linalg.cg",
    spd_cg,
    normal(6, 6, scale=0.5),
    normal(6),
    reference=spd_solve,
    dtypes=FULL,
    **LOOP,
)

add("special.xlogy", special.xlogy, touching((0.0, 1.0), F, D), positive)
add("special.xlog1py", special.xlog1py, x, uniform(-0.5, 2, F, D))
add("special.entr", special.entr, positive)
add("special.rel_entr", special.rel_entr, positive, positive)
add("special.kl_div", special.kl_div, positive, positive)
add("special.logit", special.logit, unit)
add("special.log_ndtr", special.log_ndtr, normal(F, D, scale=4), dtypes=FULL)
add("special.erfcx", special.erfcx, x)
add("special.dawsn", special.dawsn, x)
add("special.fresnel", special.fresnel, uniform(-3, 3, F, D), dtypes=FULL)
add("special.sici", special.sici, uniform(0.3, 8, F, D))
add("special.expi", special.expi, positive, **LOOP)
add("special.exp1", special.exp1, positive, **LOOP)
add("special.expn", lambda x: special.expn(3, x), positive, dtypes=FULL, **LOOP)
add("special.hyp1f1", lambda x: special.hyp1f1(1.5, 2.5, x), unit, dtypes=FULL, **LOOP)
add(
    "special.hyp2f1",
    lambda x: special.hyp2f1(0.5, 1.5, 2.5, x),
    uniform(0.05, 0.7, F, D),
    dtypes=FULL,
    **LOOP,
)
add("special.poch", special.poch, uniform(1, 3, F, D), uniform(0.5, 2, F, D))
add(
    "special.zeta",
    lambda q: special.zeta(2.5, q),
    positive,
    dtypes=FULL,
    notes="a primitive without a derivative",
)


def complex_draw(rng, size):
    return (x(rng, size) + 1j * np.abs(x(rng, size))).astype(np.complex64)


add("special.wofz", special.wofz, complex_draw, dtypes=FULL, notes="complex")

add("stats.norm.logcdf", stats.norm.logcdf, x, x, positive, dtypes=FULL)
add("stats.logistic.logpdf", stats.logistic.logpdf, x)
add("stats.gamma.logpdf", stats.gamma.logpdf, positive, positive)
add("stats.beta.logpdf", stats.beta.logpdf, unit, positive, positive)
add(
    "stats.dirichlet.logpdf",
    lambda logits, alpha: stats.dirichlet.logpdf(jax.nn.softmax(logits), alpha),
    normal(5),
    uniform(0.5, 3, 5),
    dtypes=FULL,
)
add(
    "stats.poisson.logpmf",
    lambda mu, k: stats.poisson.logpmf(k, mu),
    positive,
    integers(0, 9, F, D),
)
add("stats.binom.logpmf", lambda p, k: stats.binom.logpmf(k, 9, p), unit, integers(0, 9, F, D))
add("stats.bernoulli.logpmf", lambda p, k: stats.bernoulli.logpmf(k, p), unit, integers(0, 2, F, D))
add(
    "stats.truncnorm.logpdf",
    lambda x: stats.truncnorm.logpdf(x, -2, 3),
    uniform(-1.9, 2.9, F, D),
    dtypes=FULL,
)


def decay(y0, rate):
    """y' = -rate y, at three times."""
    from jax.experimental.ode import odeint

    times = jnp.array([0.0, 0.3, 1.0], y0.dtype)
    # As many digits as float64's adjoint has room for; float32 stops at its own.
    tol = 1e-6 if y0.dtype == jnp.float32 else 1e-12
    return odeint(lambda y, t, r: -r * y, y0, times, rate, rtol=tol, atol=tol)


def decayed(y0, rate):
    return y0 * jnp.exp(-rate * jnp.array([0.0, 0.3, 1.0], y0.dtype)[:, None])


add(
    "jax.experimental.ode.odeint",
    decay,
    normal(4),
    uniform(0.5, 2, 4),
    reference=decayed,
    dtypes=FULL,
    **LOOP,
)
