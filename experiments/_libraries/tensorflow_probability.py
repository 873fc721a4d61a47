"""Special functions, distributions and bijectors of TensorFlow Probability on JAX."""

import jax
import jax.numpy as jnp
import numpy as np
from tensorflow_probability.substrates import jax as tfp

from _libraries._cases import Bug, audit, check, normal, positive_definite, slopes, uniform

tfb, tfd, tfm = tfp.bijectors, tfp.distributions, tfp.math
KEY = jax.random.key(0)


def igammainv_twice():
    """The second derivative by a, by the rules and by mpmath."""
    import mpmath

    a, y = 1.7, 0.4

    def inverse(a):
        start = float(tfm.igammainv(float(a), y))
        return mpmath.findroot(lambda x: mpmath.gammainc(a, 0, x, regularized=True) - y, start)

    with jax.enable_x64(True), mpmath.workdps(30):
        given = float(jax.grad(jax.grad(tfm.igammainv))(a, y))
        return given, float(mpmath.diff(inverse, a, 2))


def form_off_the_diagonal(t):
    """An element of R^T M^-1 R, whose cotangent is not symmetric, as all of R moves."""
    matrix = np.float64(positive_definite(3))
    return tfm.hpsd_quadratic_form_solve(matrix, normal(3, 2) + t)[0, 1]


def lbeta_by_y(x, y):
    """d lbeta / dy = digamma(y) - digamma(x + y), whose two terms nearly cancel for large y."""
    import mpmath

    return float(jax.grad(tfm.lbeta, 1)(np.float32(x), np.float32(y))), float(
        mpmath.digamma(y) - mpmath.digamma(x + y)
    )


check("log_cosh", tfm.log_cosh, normal(3, 4))
check("lbeta", tfm.lbeta, uniform(4, low=0.5, high=5), uniform(4, low=0.5, high=5, seed=1))
check(
    "lbeta_large",
    tfm.lbeta,
    uniform(4, low=0.5, high=5),
    uniform(4, low=50, high=500, seed=1),
    bug=Bug("PRECISION", "by y it loses two digits of seven", lambda: lbeta_by_y(0.5, 500.0)),
)
check(
    "log_gamma_difference",
    tfm.log_gamma_difference,
    uniform(4, low=0.5, high=5),
    uniform(4, low=8, high=50, seed=1),
    bug=Bug("PRECISION", "by y it loses two digits, as lbeta", lambda: lbeta_by_y(0.5, 50.0)),
)
check("bessel_ive", lambda z: tfm.bessel_ive(1.5, z), uniform(4, low=0.5, high=5))
check("bessel_kve", lambda z: tfm.bessel_kve(1.5, z), uniform(4, low=0.5, high=5))
check("log_bessel_ive", lambda z: tfm.log_bessel_ive(1.5, z), uniform(4, low=0.5, high=5))
check("log_bessel_kve", lambda z: tfm.log_bessel_kve(1.5, z), uniform(4, low=0.5, high=5))
check("bessel_iv_ratio", lambda z: tfm.bessel_iv_ratio(1.5, z), uniform(4, low=0.5, high=5))
check("dawsn", tfm.dawsn, normal(4))
check("erfcx", tfm.erfcx, normal(4))
check(
    "igammainv",
    tfm.igammainv,
    uniform(3, low=1, high=3),
    uniform(3, low=0.2, high=0.8),
    bug=Bug("VARIANT", "the second derivative by a is wrong", igammainv_twice),
)
check("lambertw", tfm.lambertw, uniform(4, low=-0.2, high=3))
check("owens_t", tfm.owens_t, normal(4), normal(4, seed=1))
check("hpsd_logdet", tfm.hpsd_logdet, positive_definite(3))
check("hpsd_solve", tfm.hpsd_solve, positive_definite(3), normal(3, 2))
check(
    "hpsd_quadratic_form_solve",
    tfm.hpsd_quadratic_form_solve,
    positive_definite(3),
    normal(3, 2),
    bug=Bug(
        "WRONG",
        "by the right-hand side it takes the cotangent for symmetric",
        lambda: slopes(form_off_the_diagonal, 0.0),
    ),
)
check(
    "hpsd_quadratic_form_solvevec",
    tfm.hpsd_quadratic_form_solvevec,
    positive_definite(3),
    normal(3),
)
check("sigmoid", lambda x: tfb.Sigmoid(low=-1.0, high=2.0).forward_log_det_jacobian(x), normal(4))
check(
    "student_t_cdf",
    lambda df, x: tfd.StudentT(df, 0.0, 1.0).cdf(x),
    uniform(4, low=1, high=6),
    normal(4),
)
check(
    "student_t_quantile",
    lambda df, p: tfd.StudentT(df, 0.0, 1.0).quantile(p),
    uniform(4, low=1.5, high=6),
    uniform(4, low=0.1, high=0.9),
)
check("von_mises_cdf", lambda c: tfd.VonMises(0.0, c).cdf(normal(4)), uniform(4, low=0.5, high=8))


@audit
def flow():
    def loss(params, x):
        scale = tfb.Scale(jnp.exp(params["scale"]))
        bounded = tfb.Sigmoid(low=-2.0, high=3.0)
        flow = tfb.Chain([tfb.Softplus(), tfb.Shift(params["shift"]), scale, bounded])
        return -tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), flow).log_prob(x).sum()

    params = {"shift": np.float32(0.1), "scale": np.float32(0.1)}
    return loss, params, uniform(5, low=0.3, high=2)


@audit
def gaussian_process():
    def loss(params, x, y):
        amplitude, length, noise = jnp.exp(params)
        kernel = tfm.psd_kernels.MaternFiveHalves(amplitude, length)
        process = tfd.GaussianProcess(kernel, x, observation_noise_variance=noise)
        return -process.log_prob(y)

    return loss, np.float32([0, 0, -1]), normal(6, 1), normal(6, seed=1)


@audit(
    expect={"_random_gamma_gradient": "implicit reparametrisation, not that of the sampler's loop"}
)
def variational_gamma():
    def loss(params, counts):
        q = tfd.Gamma(jax.nn.softplus(params["a"]), jax.nn.softplus(params["b"]))
        z = q.sample(8, seed=KEY)
        joint = tfd.Gamma(2.0, 1.0).log_prob(z) + tfd.Poisson(z[:, None]).log_prob(counts).sum(1)
        return jnp.mean(q.log_prob(z) - joint)

    return loss, {"a": np.float32(1), "b": np.float32(0.5)}, np.float32([1, 2, 0, 3])


@audit
def censored_student_t():
    def loss(params, x, limit):
        t = tfd.StudentT(jnp.exp(params["df"]), params["loc"], 1.0)
        return -t.log_prob(x).sum() - jnp.log(t.cdf(limit)).sum()

    return loss, {"df": np.float32(1), "loc": np.float32(0.3)}, normal(5), normal(2, seed=1)


@audit
def directions():
    def loss(params, x):
        mean = params["mean"] / jnp.linalg.norm(params["mean"])
        return -tfd.VonMisesFisher(mean, jnp.exp(params["k"])).log_prob(x).sum()

    x = normal(5, 3, seed=1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return loss, {"mean": normal(3), "k": np.float32(0.5)}, x
