"""The fully connected layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import like, product_over_batch
from fbp._layer import Array, Key, Layer
from fbp._require import require_params, require_trailing

_LECUN_NORMAL = initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """Every output is a weighted sum of every input, plus a bias.

        y  = x @ w + b
        dw = x^T @ dy          summed over the batch axes
        db = sum(dy)           over the batch axes
        dx = dy @ w^T

    Each follows from y_o = sum_i x_i w_io + b_o: the local derivatives are dy_o/dw_io = x_i,
    dy_o/db_o = 1 and dy_o/dx_i = w_io, and the chain rule multiplies them by dy_o, the
    gradient of the loss with respect to y_o, and sums over every path.

    Shapes: x (..., n_in), w (n_in, n_out), b (n_out,), y (..., n_out).

    Args:
      n_in: size of the last axis of x.
      n_out: size of the last axis of y.
      bias: whether there is a b; without it params is {"w"} alone.
      w_init: initializer of w, from `jax.nn.initializers`. LeCun normal: variance 1 / n_in.
      b_init: initializer of b.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x is not n_in; params are not of this layer.
      TypeError: x is not a float array.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
    Nature 323, 1986.
    """

    n_in: int
    n_out: int
    bias: bool = True
    w_init: initializers.Initializer = _LECUN_NORMAL
    b_init: initializers.Initializer = initializers.zeros
    dtype: DTypeLike = jnp.float32

    def init(self, key: Array) -> dict[str, Array]:
        w_key, b_key = jax.random.split(key)
        params = {"w": self.w_init(w_key, (self.n_in, self.n_out), self.dtype)}
        if self.bias:
            params["b"] = self.b_init(b_key, (self.n_out,), self.dtype)
        return params

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.n_in,))
        bias = {"b": (self.n_out,)} if self.bias else {}
        require_params(self, params, w=(self.n_in, self.n_out), **bias)
        y = x @ params["w"]
        if self.bias:
            y = y + params["b"]
        return y, ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dparams = {"w": product_over_batch(x, dy)}
        if self.bias:
            dparams["b"] = dy.sum(tuple(range(dy.ndim - 1)))
        dx = dy @ params["w"].T
        return like(dparams, params), dx.astype(x.dtype)
