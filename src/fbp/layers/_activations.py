"""Activations: elementwise, without parameters, and cheaper to recompute than to keep.

Each backward multiplies dy by the local derivative at x. bfloat16 and float16 are computed in
float32, which costs nothing in a fused program, and rounded once at the end.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class Relu(Layer):
    """y = max(x, 0); dx = 0 where x <= 0, else dy.

    At the kink x = 0 the derivative is taken as 0, as `jax.nn.relu` and PyTorch do. NaN stays NaN.
    Raises TypeError when x is not a float array.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jnp.where(x <= 0, 0, x), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        # y = 0 exactly where x <= 0. The next layer's backward needs y too, so with a test of y
        # instead of x the compiler holds one array, not two.
        y = jnp.where(x <= 0, 0, x)
        dx = jnp.where(y == 0, 0, dy)
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class LeakyRelu(Layer):
    """y = x where x >= 0, else slope * x; dx = dy, or slope * dy.

    At the kink x = 0 the derivative is taken as 1, as `jax.nn.leaky_relu` does.
    Raises TypeError when x is not a float array.

    Args:
      slope: the derivative for x < 0.
    """

    slope: float = 0.01
    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jnp.where(x >= 0, x, self.slope * x), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        dx = jnp.where(x >= 0, dy, self.slope * dy)
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Tanh(Layer):
    """y = tanh(x); dx = dy * (1 - y^2). Raises TypeError when x is not a float array."""

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jnp.tanh(x), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        y = jnp.tanh(at_least_float32(x))
        # Uses y, which the next layer needs too. Where y rounds to +-1 the slope rounds to 0.
        dx = dy * (1 - y * y)
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)); dx = dy * y * (1 - y). Raises TypeError when x is not a float array.

    1 - y is not computed by subtraction, which would lose digits where y is near 1.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jax.nn.sigmoid(at_least_float32(x)).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        _, slope = sigmoid_and_slope(at_least_float32(x))
        dx = dy * slope
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Softplus(Layer):
    """y = log(1 + exp(x)); dx = dy * sigmoid(x). Raises TypeError when x is not a float array.

    y is computed as max(x, 0) + log1p(exp(-|x|)), which never overflows.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jnp.logaddexp(at_least_float32(x), 0).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        dx = dy * jax.nn.sigmoid(at_least_float32(x))
        return (), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Silu(Layer):
    """y = x * s with s = sigmoid(x), also called swish.

        dx = dy * (s + x * s * (1 - s))        product rule

    Raises TypeError when x is not a float array.
    """

    cheap = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_float(self, x)
        return jax.nn.silu(at_least_float32(x)).astype(x.dtype), ()

    def backward(self, params: tuple[()], x: Array, res: Any, dy: Array) -> tuple[Any, Array]:
        wide = at_least_float32(x)
        s, slope = sigmoid_and_slope(wide)
        dx = dy * (s + wide * slope)
        return (), dx.astype(x.dtype)


def sigmoid_and_slope(x: Array) -> tuple[Array, Array]:
    """Returns s = 1 / (1 + exp(-x)) and its derivative s * (1 - s), from one exponential.

    e = exp(-|x|) cannot overflow; 1 / (1 + e) is the larger of s and 1 - s, e / (1 + e) the other.
    |x| is not computed by `jnp.abs`, whose derivative at 0 is 0: autodiff of this function would be
    wrong there. With `where`, autodiff uses the formula for x >= 0, which is right at 0.
    """
    e = jnp.exp(jnp.where(x < 0, x, -x))
    larger = 1 / (1 + e)
    smaller = e * larger
    return jnp.where(x < 0, smaller, larger), larger * smaller
