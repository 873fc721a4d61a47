"""Line profiles and spectra of exojax."""

import jax
import jax.numpy as jnp
import numpy as np
from exojax.opacity.lpf.lpf import hjert
from exojax.rt.chord import safe_sqrt
from exojax.special.faddeeva import rewofzx

from _libraries._cases import Bug, audit, check, slopes, uniform

check(
    "rewofzx",
    rewofzx,
    np.float32(1),
    np.float32(0.7),
    bug=Bug(
        "WRONG",
        "by y, a term of the rule is not multiplied by the cotangent",
        lambda: slopes(lambda y: 2 * rewofzx(np.float64(1), y), 0.7),
    ),
)
check("hjert", jax.vmap(hjert), uniform(4, low=-5, high=5), uniform(4, low=0.1, high=2))
check("safe_sqrt", safe_sqrt, uniform(4, low=0.1, high=2))


@audit
def absorption_line():
    def loss(params, nu, y):
        x = (nu - params["centre"]) / jnp.exp(params["width"])
        depth = jnp.exp(params["depth"]) * jax.vmap(hjert, (0, None))(x, jnp.exp(params["damping"]))
        return jnp.mean((jnp.exp(-depth) - y) ** 2)

    params = {"depth": 0.0, "centre": 0.1, "width": 0.0, "damping": -0.5}
    params = {name: np.float32(value) for name, value in params.items()}
    return loss, params, np.linspace(-3, 3, 7, dtype=np.float32), uniform(7)
