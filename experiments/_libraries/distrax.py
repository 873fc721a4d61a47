"""Distributions and flows of distrax."""

import distrax
import jax
import jax.numpy as jnp

from _libraries._cases import Bug, audit, check, normal, through_jit, uniform


def sample(concentration):
    return distrax.VonMises(jnp.zeros(4), concentration).sample(seed=jax.random.key(0))


check(
    "von_mises_cdf",
    lambda x, c: distrax.VonMises(0.0, c).cdf(x),
    uniform(4, low=-3, high=3),
    uniform(4, low=0.5, high=8),
)
check(
    "von_mises_sample",
    sample,
    uniform(4, low=0.5, high=8),
    bug=Bug(
        "STRUCTURE",
        "jax.grad of jax.jit of it raises: the rule keeps values of the call that it was made in",
        lambda: through_jit(lambda c: sample(c).sum(), uniform(4, low=0.5, high=8)),
    ),
)
check("sigmoid", lambda x: distrax.Sigmoid().forward_log_det_jacobian(x), normal(4))
check("tanh", lambda x: distrax.Tanh().forward_log_det_jacobian(x), normal(4))


@audit
def flow():
    def loss(params, x):
        affine = distrax.ScalarAffine(params["shift"], jnp.exp(params["scale"]))
        bijector = distrax.Block(distrax.Chain([affine, distrax.Tanh()]), 1)
        base = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
        return -distrax.Transformed(base, bijector).log_prob(x).mean()

    params = {"shift": normal(2, scale=0.1), "scale": normal(2, scale=0.1)}
    return loss, params, uniform(5, 2, low=-0.45, high=0.45)


@audit
def angles():
    def loss(params, x):
        angle = distrax.VonMises(params["loc"], jnp.exp(params["concentration"]))
        return -jnp.log(angle.cdf(x)).sum() - angle.log_prob(x).sum()

    params = {"loc": normal(), "concentration": normal(seed=1)}
    return loss, params, uniform(5, low=-1.5, high=1.5)
