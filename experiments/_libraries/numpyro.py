"""Densities and special functions of numpyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import util
from numpyro.infer.util import log_density

from _libraries._cases import Bug, audit, check, normal, slopes, uniform

PowerLaw = dist.DoublyTruncatedPowerLaw
ALPHAS, LOWS, HIGHS = (
    np.float32([-2, 0.5, 1.5]),
    np.float32([0.5, 0.6, 0.7]),
    np.float32([2, 2.5, 3]),
)
BETWEEN, QUANTILES = np.float32([1, 1.2, 1.4]), np.float32([0.1, 0.5, 0.8])


def gammaincinv_twice():
    """The second derivative by a, by the rules and by mpmath."""
    import mpmath

    a, y = 1.7, 0.4

    def inverse(a):
        start = float(util.gammaincinv(float(a), y))
        return mpmath.findroot(lambda x: mpmath.gammainc(a, 0, x, regularized=True) - y, start)

    with jax.enable_x64(True), mpmath.workdps(30):
        given = float(jax.grad(jax.grad(util.gammaincinv))(a, y))
        return given, float(mpmath.diff(inverse, a, 2))


check("log1mexp", util.log1mexp, uniform(3, 4, low=-3, high=-0.1))
check(
    "logdiffexp",
    util.logdiffexp,
    uniform(4, low=1, high=2),
    uniform(4, low=-2, high=0.5),
)
check(
    "betainc",
    util.betainc,
    uniform(3, low=1, high=3),
    uniform(3, low=1, high=3, seed=1),
    uniform(3, low=0.2, high=0.8),
)
check(
    "gammaincinv",
    util.gammaincinv,
    uniform(3, low=1, high=3),
    uniform(3, low=0.2, high=0.8),
    bug=Bug("VARIANT", "the second derivative by a is wrong", gammaincinv_twice),
)
check(
    "power_law_log_prob",
    lambda alpha, low, high, x: PowerLaw(alpha, low, high).log_prob(x),
    ALPHAS,
    LOWS,
    HIGHS,
    BETWEEN,
    bug=Bug(
        "WRONG",
        "by low and high it is the derivative of the density, not of its logarithm",
        lambda: slopes(lambda low: PowerLaw(-2.0, low, 2.0).log_prob(jnp.ones(())), 0.5),
    ),
)
check(
    "power_law_cdf",
    lambda alpha, low, high, x: PowerLaw(alpha, low, high).cdf(x),
    ALPHAS,
    LOWS,
    HIGHS,
    BETWEEN,
    bug=Bug(
        "WRONG",
        "beyond high the cdf is 1, and its derivative is not 0",
        lambda: slopes(lambda x: PowerLaw(-2.0, 0.5, 2.0).cdf(x), 3.0),
    ),
)
check(
    "power_law_icdf",
    lambda alpha, low, high, q: PowerLaw(alpha, low, high).icdf(q),
    ALPHAS,
    LOWS,
    HIGHS,
    QUANTILES,
    bug=Bug(
        "RANGE",
        "NaN by alpha at low = 0",
        lambda: slopes(lambda alpha: PowerLaw(alpha, jnp.zeros(()), 2.0).icdf(0.3), 0.5),
    ),
)


@audit
def truncated_normal():
    def loss(params, x):
        scale = jnp.exp(params["scale"])
        return -dist.TruncatedNormal(params["loc"], scale, low=-1.0, high=3.0).log_prob(x).sum()

    return loss, {"loc": np.float32(0.2), "scale": np.float32(0.1)}, uniform(4, high=2)


@audit
def counts():
    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Poisson(jax.nn.softplus(x @ w)), obs=y)

    def loss(w, x, y):
        return -log_density(model, (x, y), {}, {"w": w})[0]

    return loss, normal(3), normal(6, 3, seed=1), np.array([0, 1, 4, 0, 2, 0])


@audit
def zero_inflated_counts():
    def loss(params, y):
        base = dist.Poisson(jnp.exp(params["rate"]))
        return -dist.ZeroInflatedDistribution(base, gate_logits=params["gate"]).log_prob(y).sum()

    return loss, {"rate": np.float32(0.5), "gate": np.float32(-0.5)}, np.array([0, 1, 4, 0, 2])


@audit(
    bug=Bug(
        "WRONG",
        "as power_law_log_prob",
        lambda: slopes(lambda high: PowerLaw(-1.5, 0.5, high).log_prob(jnp.ones(())), 4.0),
    )
)
def power_law():
    def loss(params, x):
        return -PowerLaw(params["alpha"], 0.5, jnp.exp(params["high"])).log_prob(x).sum()

    params = {"alpha": np.float32(-1.5), "high": np.float32(1.5)}
    return loss, params, uniform(4, low=1, high=3)
