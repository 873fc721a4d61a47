"""The Gaussian error linear unit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer
from fbp._require import require_float
from fbp.layers._activations import sigmoid_and_slope

_SQRT_2 = 2.0**0.5
_SQRT_2_OVER_PI = (2.0 / jnp.pi) ** 0.5
_SQRT_2_PI = (2.0 * jnp.pi) ** 0.5
# The coefficient of the cubic term in Hendrycks and Gimpel's tanh formula.
_CUBIC = 0.044715
# Beyond |x| = 40 the sigmoid is 0 or 1 to float64 precision; x^3 is kept from overflow.
_SATURATED = 40.0


@dataclasses.dataclass(frozen=True)
class Gelu(Layer):
    """y = x * P(Z <= x) for a standard normal Z, exactly (erf) or by the tanh formula.

        erf   y  = x * Phi(x)
              dx = dy * (Phi(x) + x * phi(x))              Phi' = phi, the normal density
        tanh  y  = x * s,   s = sigmoid(2u),   u = sqrt(2/pi) * (x + 0.044715 x^3)
              dx = dy * (s + x * s * (1 - s) * 2 du/dx)

    The sigmoid equals (1 + tanh(u)) / 2 of the paper, but keeps its digits for x << 0.
    Raises TypeError when x is not a float array.

    Args:
      tanh: whether to use the tanh formula, as GPT-2 does.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
    """

    tanh: bool = True
    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        wide = at_least_float32(x)
        cdf = jax.nn.sigmoid(2 * _tanh_argument(wide)) if self.tanh else _normal_cdf(wide)
        return (wide * cdf).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        wide = at_least_float32(x)
        if self.tanh:
            cdf, slope = sigmoid_and_slope(2 * _tanh_argument(wide))
            du = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * _near(wide) ** 2)
            pdf = slope * 2 * du
        else:
            cdf = _normal_cdf(wide)
            pdf = jnp.exp(-(wide**2) / 2) / _SQRT_2_PI
        # y = x * cdf(x)
        dx = dy * (cdf + wide * pdf)
        return (), dx.astype(x.dtype)


def _near(x: Array) -> Array:
    return jnp.clip(x, -_SATURATED, _SATURATED)


def _tanh_argument(x: Array) -> Array:
    x = _near(x)
    return _SQRT_2_OVER_PI * (x + _CUBIC * x**3)


def _normal_cdf(x: Array) -> Array:
    return jax.lax.erfc(-x / _SQRT_2) / 2
