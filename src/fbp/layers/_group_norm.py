"""Group normalization, over groups of channels of a single image."""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_params, require_trailing
from fbp.layers._standardize import Statistics, dstandardize, standardize, statistics

# The axes H, W and channels of a group in (..., H, W, groups, n / groups).
_AXES = (-4, -3, -1)


@dataclasses.dataclass(frozen=True)
class GroupNorm(Layer):
    """Standardizes each group of channels of each image, then scales and shifts each channel.

        xhat   = (x - mean) / sqrt(var + eps)     mean, var over H, W and the group's channels
        y      = scale * xhat + bias
        dscale = sum(dy * xhat)                   over H, W and the batch axes
        dbias  = sum(dy)
        dxhat  = scale * dy
        dx     = (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / sqrt(var + eps)

    where the means in dx are over the same axes as mean and var; `_standardize.py` derives dx.
    One group is layer normalization of the whole image, n groups are instance normalization.
    res: mean and var, two numbers per group.

    Shapes: x and y (..., H, W, n), scale and bias (n,).

    Args:
      groups: number of groups that the channels are split into.
      n: number of channels.
      eps: added to the variance, so that equal numbers are not divided by 0.
      dtype: dtype of the parameters, which start at 1 and 0.

    Raises:
      ValueError: groups do not divide n; x is not (..., H, W, n); params are not of this layer.
      TypeError: x is not a float array.

    Source: Wu and He, "Group Normalization", ECCV 2018.
    """

    groups: int
    n: int
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    cheap = True

    def __post_init__(self) -> None:
        if self.groups < 1 or self.n % self.groups:
            raise ValueError(f"GroupNorm: expected groups to divide n {self.n}, got {self.groups}")

    def init(self, key: Array) -> dict[str, Array]:
        return {"scale": jnp.ones(self.n, self.dtype), "bias": jnp.zeros(self.n, self.dtype)}

    def forward(
        self, params: dict[str, Array], x: Array, key: Key = None
    ) -> tuple[Array, Statistics]:
        require_trailing(self, x, (self.n,))
        if x.ndim < 3:
            raise ValueError(
                f"{name_of(self)}: expected x to have axes (..., H, W, {self.n}), "
                f"got shape {x.shape}"
            )
        require_params(self, params, scale=(self.n,), bias=(self.n,))
        res = statistics(self._grouped(x), _AXES)
        return self.recompute(params, x, res), res

    def backward(
        self, params: dict[str, Array], x: Array, res: Statistics, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dy, batch = at_least_float32(dy), tuple(range(x.ndim - 1))
        mean, var = res
        xhat = standardize(self._grouped(x), mean, var, self.eps)
        dxhat = self._grouped(params["scale"] * dy)
        dx = dstandardize(xhat, var, self.eps, dxhat, _AXES).reshape(x.shape)
        dparams = {"scale": (dy * xhat.reshape(x.shape)).sum(batch), "bias": dy.sum(batch)}
        return like(dparams, params), dx.astype(x.dtype)

    def recompute(self, params: dict[str, Array], x: Array, res: Statistics) -> Array:
        xhat = standardize(self._grouped(x), *res, self.eps).reshape(x.shape)
        return (params["scale"] * xhat + params["bias"]).astype(x.dtype)

    def _grouped(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.groups, self.n // self.groups)
