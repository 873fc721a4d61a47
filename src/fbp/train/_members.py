"""Several networks of one shape: trained side by side, then asked as one.

Each leaves out a part of the training rows of its own. The loss on the rows left out, taken over
all of them, is what an early stop needs: it measures with every training row, and no network has
seen the rows it is measured by. And the mean of several networks is better than each.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params
from fbp._require import require_layer


@dataclasses.dataclass(frozen=True)
class _Several(Layer):
    """n networks of one shape: every leaf of params has a leading axis of size n."""

    layer: Layer
    n: int

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    def init(self, key: Array) -> Params:
        return jax.vmap(self.layer.init)(jax.random.split(key, self.n))


@dataclasses.dataclass(frozen=True)
class Members(_Several):
    """n networks side by side, each with an x of its own.

        y_i  = f(p_i, x_i)
        dp_i = (dy_i/dp_i)^T dy_i
        dx_i = (dy_i/dx_i)^T dy_i

    Every leaf of params has a leading axis of size n.

    Shapes: x (..., n, n_in), y (..., n, n_out).

    Args:
      layer: f, from (..., n_in) to (..., n_out).
      n: how many.
    """

    def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, Any]:
        self._require_members(x)
        keys = None if key is None else jax.random.split(key, self.n)
        forward = jax.vmap(self.layer.forward, (0, -2, None if keys is None else 0), (-2, 0))
        return forward(params, x, keys)

    def backward(self, params: Params, x: Array, res: Any, dy: Array) -> tuple[Params, Array]:
        return jax.vmap(self.layer.backward, (0, -2, 0, -2), (0, -2))(params, x, res, dy)

    def _require_members(self, x: Array) -> None:
        if x.ndim < 2 or x.shape[-2] != self.n:
            raise ValueError(f"Members: expected x of shape (..., {self.n}, n_in), got {x.shape}")


@dataclasses.dataclass(frozen=True)
class MeanOfMembers(_Several):
    """The mean of n networks that were trained as `Members`, on one x.

        y    = 1/n sum_i f(p_i, x)
        dp_i = 1/n (dy_i/dp_i)^T dy
        dx   = 1/n sum_i (dy_i/dx)^T dy         x is read n times: its gradients add up

    Shapes: x (..., n_in), y (..., n_out).

    Args:
      layer: f.
      n: how many.
    """

    def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, Any]:
        keys = None if key is None else jax.random.split(key, self.n)
        forward = jax.vmap(self.layer.forward, (0, None, None if keys is None else 0))
        y, res = forward(params, x, keys)
        return y.mean(0), res

    def backward(self, params: Params, x: Array, res: Any, dy: Array) -> tuple[Params, Array]:
        backward = jax.vmap(self.layer.backward, (0, None, 0, None))
        dparams, dx = backward(params, x, res, dy / self.n)
        return dparams, jnp.sum(dx, 0)
