"""One step of a gated recurrent unit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._cell import Cell, draw_gates
from fbp._gradients import at_least_float32, like, product_over_batch
from fbp._layer import Array
from fbp._require import require_params, require_trailing

_LECUN_NORMAL = initializers.lecun_normal()
_ORTHOGONAL = initializers.orthogonal()


@dataclasses.dataclass(frozen=True)
class GRUCell(Cell):
    """A state h blended with a candidate g by one gate, k, in place of the LSTM's i and f.

        z = x_t @ w + b,   p = h @ u,    each split into three
        r = sigmoid(z_r + p_r)           k = sigmoid(z_k + p_k)
        q = p_g + c                      g = tanh(z_g + r * q)
        h' = k * h + (1 - k) * g         y = (h', h')

    r is how much of the past the candidate sees, k how much of the state is kept. The reset gate is
    applied after the product with u, r * (h @ u_g + c), as in cuDNN and PyTorch (whose r, z, n are
    r, k, g here); the paper applies it before, (r * h) @ u_g. Applied after, h @ u is a single
    product. Backward, with dh' = dy_t + the gradient from the next step:

        da_g = dh' * (1 - k) * (1 - g^2)
        dq   = da_g * r
        da_r = da_g * q * r * (1 - r)
        da_k = dh' * (h - g) * k * (1 - k)
        dz   = (da_r, da_k, da_g),    dp = (da_r, da_k, dq)
        dw   = x_t^T @ dz,   du = h^T @ dp,   db = sum(dz),   dc = sum(dq)     over the batch axes
        dx_t = dz @ w^T
        dh   = dp @ u^T + dh' * k                              to the step before

    res: r, k, g, and q, which would take a matrix product to recompute.

    Shapes: x_t (..., n_in), h and y_t (..., n), w (n_in, 3n), u (n, 3n), b (3n,), c (n,), in the
    order r, k, g. The state is h itself.

    Args:
      n_in: size of the last axis of x_t.
      n: size of the state.
      w_init: initializer of w. LeCun normal: variance 1 / n_in.
      u_init: initializer of the (n, n) matrix of each gate in u. Orthogonal: it preserves norms.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x_t or h has another size; params are not of this cell.
      TypeError: x_t is not a float array; x is not a pair.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
    Machine Translation", EMNLP 2014; the reset after the product: cuDNN's form, as in
    `torch.nn.GRU`.
    """

    n_in: int
    n: int
    w_init: initializers.Initializer = _LECUN_NORMAL
    u_init: initializers.Initializer = _ORTHOGONAL
    dtype: DTypeLike = jnp.float32

    def init(self, key: Array) -> dict[str, Array]:
        w_key, u_key = jax.random.split(key)
        return {
            "w": self.w_init(w_key, (self.n_in, 3 * self.n), self.dtype),
            "u": draw_gates(self.u_init, u_key, 3, self.n, self.dtype),
            "b": jnp.zeros(3 * self.n, self.dtype),
            "c": jnp.zeros(self.n, self.dtype),
        }

    def initial(self, params: dict[str, Array], x_t: Any) -> Array:
        shape = (*x_t.shape[:-1], self.n)
        return jnp.zeros(shape, jnp.result_type(x_t.dtype, params["w"].dtype))

    def project(self, params: dict[str, Array], x: Array) -> Array:
        require_trailing(self, x, (self.n_in,), "x_t")
        n = 3 * self.n
        require_params(self, params, w=(self.n_in, n), u=(self.n, n), b=(n,), c=(self.n,))
        return x @ params["w"] + params["b"]

    def forward_step(
        self, params: dict[str, Array], z: Array, state: Array
    ) -> tuple[tuple[Array, Array], Any]:
        require_trailing(self, state, (self.n,), "h")
        z_r, z_k, z_g = jnp.split(at_least_float32(z), 3, -1)
        p_r, p_k, p_g = jnp.split(at_least_float32(state @ params["u"]), 3, -1)
        r, k = jax.nn.sigmoid(z_r + p_r), jax.nn.sigmoid(z_k + p_k)
        q = p_g + params["c"]
        g = jnp.tanh(z_g + r * q)
        h = (k * state + (1 - k) * g).astype(z.dtype)
        return (h, h), (r, k, g, q)

    def backward_step(
        self, params: dict[str, Array], state: Array, res: Any, dy: tuple[Array, Array]
    ) -> tuple[Any, Array]:
        (r, k, g, q), u = res, params["u"]
        dy_t, dh = dy
        dh = at_least_float32(dy_t) + dh
        da_g = dh * (1 - k) * (1 - g**2)
        dq = da_g * r
        da_r = da_g * q * r * (1 - r)
        da_k = dh * (state - g) * k * (1 - k)
        dp = jnp.concatenate([da_r, da_k, dq], -1)
        wide, narrow = dp.dtype, jnp.result_type(state, u)
        dp, da_g = dp.astype(narrow), da_g.astype(narrow)
        return (dp, da_g), jnp.matmul(dp, u.T, preferred_element_type=wide) + dh * k

    def gather(
        self, params: dict[str, Array], x: Array, state: Array, da: Any
    ) -> tuple[dict[str, Array], Array]:
        dp, da_g = da
        # dz and dp differ in the last third only, so each step keeps dp and da_g.
        da_rk, dq = jnp.split(dp, [2 * self.n], -1)
        dz = jnp.concatenate([da_rk, da_g], -1)
        batch = range(dz.ndim - 1)
        dparams = {
            "w": product_over_batch(x, dz),
            "u": product_over_batch(state, dp),
            "b": at_least_float32(dz).sum(batch),
            "c": at_least_float32(dq).sum(batch),
        }
        return like(dparams, params), (dz @ params["w"].T).astype(x.dtype)
