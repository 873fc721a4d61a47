"""Rules inside jax itself."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jax.scipy import special

from _libraries._cases import Bug, audit, check, differences, normal, slopes, uniform

check("relu", jax.nn.relu, normal(3, 4))
check("relu6", jax.nn.relu6, normal(3, 4, scale=4))
check("softplus", jax.nn.softplus, normal(3, 4))
check("mish", jax.nn.mish, normal(3, 4))
check("log1mexp", jax.nn.log1mexp, uniform(3, 4, low=0.1, high=3))
check("logaddexp", jnp.logaddexp, normal(3, 4), normal(3, 4, seed=1))
check("logaddexp2", jnp.logaddexp2, normal(3, 4), normal(3, 4, seed=1))
check("sinc", jnp.sinc, np.float32([0, 0.1, 1e-4, 1, 2]))
check("det", jnp.linalg.det, normal(4, 4))
check("slogdet", jnp.linalg.slogdet, normal(2, 5, 5))
check("slogdet_qr", lambda a: jnp.linalg.slogdet(a, method="qr")[1], normal(2, 5, 5))
check("pinv", jnp.linalg.pinv, normal(5, 3))
check("pinv_wide", jnp.linalg.pinv, normal(2, 3, 5))
check("erfcx", special.erfcx, normal(3, 4))
check("dawsn", special.dawsn, normal(3, 4))
check("logit", special.logit, uniform(3, 4, low=0.05, high=0.95))
check("xlogy", special.xlogy, uniform(3, 4), uniform(3, 4, low=0.1, high=2, seed=1))
check("xlog1py", special.xlog1py, uniform(3, 4), uniform(3, 4, low=-0.5, high=2, seed=1))
check("entr", special.entr, uniform(3, 4, low=0.05))
check("rel_entr", special.rel_entr, uniform(3, 4, low=0.05), uniform(3, 4, low=0.05, seed=2))
check("zeta", lambda q: special.zeta(3.0, q), uniform(3, 4, low=1, high=4))
check("log_ndtr", special.log_ndtr, normal(3, 4, scale=4))
check("expi", special.expi, uniform(3, 4, low=0.1, high=3))
check("expn", lambda x: special.expn(2, x), uniform(3, 4, low=0.1, high=4))
check("sici", special.sici, uniform(3, 4, low=0.1, high=6))
check("poch", special.poch, uniform(4, low=0.5, high=3), uniform(4, low=0.5, high=3, seed=1))
check(
    "hyp1f1",
    special.hyp1f1,
    uniform(4, low=0.5, high=2),
    uniform(4, low=1, high=3, seed=1),
    normal(4),
)
check("hyp2f1", lambda x: special.hyp2f1(1.5, 0.5, 2.5, x), uniform(4, low=-0.8, high=0.8))
check(
    "i0",
    jnp.i0,
    normal(3, 4),
    bug=Bug(
        "VARIANT",
        "the second derivative at 0 is lost",
        lambda: slopes(jax.grad(lambda x: jnp.i0(x)), 0.0),
    ),
)
check(
    "xlogy_at_zero",
    special.xlogy,
    np.float32([0, 0.5, 1]),
    np.float32([0, 0.5, 2]),
    bug=Bug(
        "RANGE",
        "NaN for y at (0, 0), where xlogy(0, y) is 0 for every y",
        lambda: (
            float(jax.grad(special.xlogy, 1)(0.0, 0.0)),
            differences(lambda y: special.xlogy(0.0, abs(y)), 0.0),
        ),
    ),
)
check(
    "odeint",
    lambda y0, w: odeint(lambda y, t, w: jnp.tanh(w @ y), y0, jnp.linspace(0, 1.0, 4), w),
    normal(3),
    normal(3, 3, seed=1),
)


@audit
def neural_ode_odeint():
    def loss(w, y0, ys):
        times = jnp.linspace(0, 1.0, 4)
        return jnp.mean((odeint(lambda y, t, w: jnp.tanh(w @ y) - y, y0, times, w) - ys) ** 2)

    return loss, normal(3, 3), normal(3, seed=1), normal(4, 3, seed=2)


@audit
def relu_in_a_loop():
    def loss(w, x):
        y = jax.lax.fori_loop(0, 5, lambda i, h: jax.nn.relu(w @ h + 0.1), x)
        return jnp.sum(jax.nn.log_softmax(y) * jnp.arange(3.0))

    return loss, normal(3, 3), normal(3, seed=1)


@audit
def cond_remat_and_linear_algebra():
    def loss(params, x, flag):
        h = jax.checkpoint(lambda h: jax.nn.relu(h @ params["a"]))(x)
        h = jax.lax.cond(
            flag > 0,
            lambda h: jax.nn.silu(h @ params["b"]),
            lambda h: jax.nn.relu6(h @ params["b"]),
            h,
        )
        inverse = jax.vmap(lambda v: jnp.linalg.pinv(v.reshape(2, 2) + 2 * jnp.eye(2)))(h)
        return jax.nn.logsumexp(inverse) + jnp.linalg.slogdet(params["b"])[1]

    params = {"a": normal(3, 4), "b": normal(4, 4)}
    return loss, params, normal(5, 3, seed=1), np.int32(1)


@audit
def policy_rolled_out():
    def loss(params, x):
        def step(x, _):
            u = jnp.clip(jax.nn.relu(x @ params["a"]) @ params["b"], -1.0, 1.0)
            x = x + 0.1 * jnp.stack([x[1], jnp.sin(x[0]) + u[0]])
            return x, jnp.sum(x**2)

        return jnp.sum(jax.lax.scan(jax.checkpoint(step), x, None, length=6)[1])

    return loss, {"a": normal(2, 5), "b": normal(5, 1, scale=0.3)}, normal(2, seed=1)


@audit
def probit_regression():
    def loss(params, x, y):
        z = x @ params["w"] + params["b"]
        return -jnp.mean(jnp.where(y, special.log_ndtr(z), special.log_ndtr(-z)))

    x = normal(8, 3, seed=1)
    return loss, {"w": normal(3), "b": np.float32(0.1)}, x, x[:, 0] > 0
