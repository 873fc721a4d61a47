"""Sample: draws from a normal distribution, differentiably."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float

# {"mean": ..., "log_var": ...}
Normal = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Sample(Layer):
    """Draws from a normal distribution with the given mean and logarithm of the variance.

        y        = mean + std eps           std = exp(log_var / 2), eps standard normal
        dmean    = dy
        dlog_var = dy std eps / 2

    eps depends on neither, so y is a differentiable function of both: the reparametrisation. In
    evaluation, without a key, y = mean and dlog_var = 0. res is the key, a few bytes, from which
    the backward draws the same eps again.

    Shapes: x = {"mean": (...), "log_var": (...)} of one shape, y (...).

    Raises:
      ValueError: x is no such dict; mean and log_var differ in shape.
      TypeError: mean or log_var is not a float array.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", arXiv:1312.6114.
    """

    cheap = True
    draws = True

    def forward(self, params: tuple[()], x: Normal, key: Key = None) -> tuple[Array, Key]:
        if not isinstance(x, dict) or set(x) != {"mean", "log_var"}:
            raise ValueError(
                f'{name_of(self)}: expected x = {{"mean": ..., "log_var": ...}}, got {described(x)}'
            )
        for name in ("mean", "log_var"):
            require_float(self, x[name], name)
        if x["mean"].shape != x["log_var"].shape:
            raise ValueError(
                f"{name_of(self)}: expected mean and log_var of one shape, "
                f"got {x['mean'].shape} and {x['log_var'].shape}"
            )
        return self._drawn(x, key), key

    def backward(self, params: tuple[()], x: Normal, res: Key, dy: Array) -> tuple[Any, Normal]:
        mean, log_var = x["mean"], x["log_var"]
        dlog_var = dy * self._noise(x, res) / 2
        return (), {"mean": dy.astype(mean.dtype), "log_var": dlog_var.astype(log_var.dtype)}

    def recompute(self, params: tuple[()], x: Normal, res: Key) -> Array:
        return self._drawn(x, res)

    def _drawn(self, x: Normal, key: Key) -> Array:
        y = at_least_float32(x["mean"]) + self._noise(x, key)
        return y.astype(jnp.result_type(x["mean"], x["log_var"]))

    def _noise(self, x: Normal, key: Key) -> Array:
        """Returns std eps, 0 without a key."""
        log_var = at_least_float32(x["log_var"])
        if key is None:
            return jnp.zeros_like(log_var)
        return jnp.exp(log_var / 2) * jax.random.normal(key, log_var.shape, log_var.dtype)
