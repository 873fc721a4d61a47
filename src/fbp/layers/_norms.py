"""Norms over the last axis. They are cheap: y is recomputed from x, and there are no residuals.

One derivation serves both backwards. Let y = w * u (+ b) with u = (x - m) r, where m is the mean (0
for `RMSNorm`) and r = 1 / sqrt(mean((x - m)^2) + eps). With g = w * dy, the gradient of u,

    du_j/dx_i = r (1[i = j] - 1/D - u_i u_j / D)

where 1/D is the effect of x_i on the mean (absent in `RMSNorm`) and u_i u_j / D its effect on r.
Multiplied by g_j and summed over j, dx = r (g - mean(g) - u mean(g u)): g without its components
along the constant vector (again, not in `RMSNorm`) and along u.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer
from fbp._require import require_params, require_trailing


@dataclasses.dataclass(frozen=True)
class LayerNorm(Layer):
    """Standardizes every vector to mean 0 and variance 1, then scales by w and shifts by b.

        u  = (x - mean(x)) * r,     r = 1 / sqrt(var(x) + eps)
        y  = w * u + b
        dw = sum(dy * u)            over the batch axes
        db = sum(dy)                over the batch axes
        dx = r * (g - mean(g) - u * mean(g * u)),     g = w * dy

    Means are over the last axis, in at least float32. Shapes: x and y (..., D), w and b (D,).

    Args:
      n: D, the size of the last axis.
      eps: added to the variance, so that a constant x is not divided by 0.
      bias: whether there is a b; without it params is {"w"} alone.
      w_init: initializer of w. Ones by default; b starts at 0.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x is not n; params are not of this layer.
      TypeError: x is not a float array.

    Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450, 2016.
    """

    n: int
    eps: float = 1e-5
    bias: bool = True
    w_init: initializers.Initializer = initializers.ones
    dtype: DTypeLike = jnp.float32
    cheap = True

    def init(self, key: Array) -> dict[str, Array]:
        params = {"w": self.w_init(key, (self.n,), self.dtype)}
        if self.bias:
            params["b"] = jnp.zeros((self.n,), self.dtype)
        return params

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n,))
        require_params(
            self, params, **dict.fromkeys(("w", "b") if self.bias else ("w",), (self.n,))
        )
        u, _ = self._normalized(x)
        y = params["w"] * u
        if self.bias:
            y = y + params["b"]
        return y.astype(jnp.result_type(x, params["w"])), ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        u, r = self._normalized(x)
        dy = at_least_float32(dy)
        batch = tuple(range(x.ndim - 1))
        dparams = {"w": (dy * u).sum(batch)}
        if self.bias:
            dparams["b"] = dy.sum(batch)
        g = params["w"] * dy
        dx = r * (g - _mean(g) - u * _mean(g * u))
        return like(dparams, params), dx.astype(x.dtype)

    def _normalized(self, x: Array) -> tuple[Array, Array]:
        x = at_least_float32(x)
        centred = x - _mean(x)
        r = lax.rsqrt(_mean(centred * centred) + self.eps)
        return centred * r, r


@dataclasses.dataclass(frozen=True)
class RMSNorm(Layer):
    """Scales every vector to a mean square of 1, then multiplies it by a learned w.

        u  = x * r,     r = 1 / sqrt(mean(x^2) + eps)
        y  = w * u
        dw = sum(dy * u)            over the batch axes
        dx = r * (g - u * mean(g * u)),     g = w * dy

    Means are over the last axis, in at least float32. Shapes: x and y (..., D), w (D,).

    Args:
      n: D, the size of the last axis.
      eps: added to the mean square, so that x = 0 is not divided by 0.
      w_init: initializer of w. Ones by default.
      dtype: dtype of w.

    Raises:
      ValueError: the last axis of x is not n; params are not of this layer.
      TypeError: x is not a float array.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.
    """

    n: int
    eps: float = 1e-6
    w_init: initializers.Initializer = initializers.ones
    dtype: DTypeLike = jnp.float32
    cheap = True

    def init(self, key: Array) -> dict[str, Array]:
        return {"w": self.w_init(key, (self.n,), self.dtype)}

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n,))
        require_params(self, params, w=(self.n,))
        u, _ = self._normalized(x)
        return (params["w"] * u).astype(jnp.result_type(x, params["w"])), ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        u, r = self._normalized(x)
        dy = at_least_float32(dy)
        dw = (dy * u).sum(range(x.ndim - 1))
        g = params["w"] * dy
        dx = r * (g - u * _mean(g * u))
        return like({"w": dw}, params), dx.astype(x.dtype)

    def _normalized(self, x: Array) -> tuple[Array, Array]:
        x = at_least_float32(x)
        r = lax.rsqrt(_mean(x * x) + self.eps)
        return x * r, r


def _mean(a: Array) -> Array:
    return a.mean(-1, keepdims=True)
