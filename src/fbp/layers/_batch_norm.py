"""Batch normalization, for training and for use after training."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer
from fbp._require import require_params, require_trailing
from fbp.layers._standardize import Statistics, dstandardize, standardize, statistics


@dataclasses.dataclass(frozen=True)
class BatchNorm(Layer):
    """Standardizes each channel over the whole batch, then scales and shifts it.

        xhat   = (x - mean) / sqrt(var + eps)     mean, var over all axes but the last
        y      = scale * xhat + bias
        dscale = sum(dy * xhat)                   over all axes but the last
        dbias  = sum(dy)
        dxhat  = scale * dy
        dx     = (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / sqrt(var + eps)

    `_standardize.py` derives dx. y of an example depends on the other examples of its batch. A
    layer is a pure function and keeps no running averages: `fbp.with_batch_statistics` turns a
    trained model into one whose mean and var are fixed. res: mean and var, one number per channel.

    Shapes: x and y (..., n), scale and bias (n,).

    Args:
      n: number of channels.
      eps: added to the variance, so that equal numbers are not divided by 0.
      dtype: dtype of the parameters, which start at 1 and 0.

    Raises:
      ValueError: the last axis of x is not n; params are not of this layer.
      TypeError: x is not a float array.

    Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", ICML 2015.
    """

    n: int
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    cheap = True

    def init(self, key: Array) -> dict[str, Array]:
        return {"scale": jnp.ones(self.n, self.dtype), "bias": jnp.zeros(self.n, self.dtype)}

    def forward(
        self, params: dict[str, Array], x: Array, key: Key = None
    ) -> tuple[Array, Statistics]:
        require_trailing(self, x, (self.n,))
        require_params(self, params, scale=(self.n,), bias=(self.n,))
        res = statistics(x, _batch_axes(x))
        return self.recompute(params, x, res), res

    def backward(
        self, params: dict[str, Array], x: Array, res: Statistics, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dy, batch = at_least_float32(dy), _batch_axes(x)
        mean, var = res
        xhat = standardize(x, mean, var, self.eps)
        dx = dstandardize(xhat, var, self.eps, params["scale"] * dy, batch)
        dparams = {"scale": (dy * xhat).sum(batch), "bias": dy.sum(batch)}
        return like(dparams, params), dx.astype(x.dtype)

    def recompute(self, params: dict[str, Array], x: Array, res: Statistics) -> Array:
        xhat = standardize(x, *res, self.eps)
        return (params["scale"] * xhat + params["bias"]).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class FixedBatchNorm(Layer):
    """Batch normalization after training: constant mean and var, no dependence between examples.

        xhat   = (x - mean) / sqrt(var + eps)
        y      = scale * xhat + bias
        dscale = sum(dy * xhat)                   over the batch axes
        dbias  = sum(dy)
        dx     = scale * dy / sqrt(var + eps)

    mean and var are part of params, so that they are saved with scale and bias. They are measured,
    not learned: their gradients are defined to be 0.

    Shapes: x and y (..., n), all params (n,).

    Args:
      n: number of channels.
      eps: added to the variance.
      dtype: dtype of the parameters. scale and var start at 1, bias and mean at 0.

    Raises:
      ValueError: the last axis of x is not n; params are not of this layer.
      TypeError: x is not a float array.
    """

    n: int
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    cheap = True

    def init(self, key: Array) -> dict[str, Array]:
        ones, zeros = jnp.ones(self.n, self.dtype), jnp.zeros(self.n, self.dtype)
        return {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n,))
        shape = (self.n,)
        require_params(self, params, scale=shape, bias=shape, mean=shape, var=shape)
        xhat = standardize(x, *_constants(params), self.eps)
        return (params["scale"] * xhat + params["bias"]).astype(x.dtype), ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        mean, var = _constants(params)
        dy, batch = at_least_float32(dy), _batch_axes(x)
        dparams = {
            "scale": (dy * standardize(x, mean, var, self.eps)).sum(batch),
            "bias": dy.sum(batch),
            "mean": jnp.zeros_like(mean),
            "var": jnp.zeros_like(var),
        }
        dx = params["scale"] * lax.rsqrt(var + self.eps) * dy
        return like(dparams, params), dx.astype(x.dtype)


def _batch_axes(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _constants(params: dict[str, Array]) -> Statistics:
    mean, var = lax.stop_gradient((params["mean"], params["var"]))
    return at_least_float32(mean), at_least_float32(var)
