"""One step of a long short-term memory (LSTM)."""

import dataclasses
from typing import Any, NamedTuple

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


class LSTMState(NamedTuple):
    """The state of an LSTM: its output h and its memory c."""

    h: Array
    c: Array


@dataclasses.dataclass(frozen=True)
class LSTMCell(Cell):
    """A memory c that is added to, not overwritten, so that gradients survive many steps.

        a = x_t @ w + h @ u + b,      split into a_i, a_f, a_g, a_o
        i = sigmoid(a_i)    f = sigmoid(a_f)    g = tanh(a_g)    o = sigmoid(a_o)
        c' = f * c + i * g
        h' = o * tanh(c')             y = (h', (h', c'))

    f is how much of the memory is kept, i how much of g is written, o how much is output. Backward,
    with dh' and dc' from the next step, and dh = dy_t + dh' since h' is both output and state:

        dc   = dc' + dh * o * (1 - tanh(c')^2)
        da_i = dc * g * i * (1 - i)
        da_f = dc * c * f * (1 - f)
        da_g = dc * i * (1 - g^2)
        da_o = dh * tanh(c') * o * (1 - o)
        dw   = x_t^T @ da,   du = h^T @ da,   db = sum(da)      summed over the batch axes
        dx_t = da @ w^T
        dh   = da @ u^T,     dc = dc * f                        to the step before

    The last equation is the purpose of the LSTM: from step to step dc is multiplied by f only, not
    by a matrix or by the derivative of a tanh.

    res: i, f, g and o. They take no more memory than a, whose recomputation would need matrix
    products; tanh(c') takes four operations and is recomputed.

    Shapes: x_t (..., n_in), h and c (..., n), y_t (..., n), w (n_in, 4n), u (n, 4n), b (4n,), in
    the order i, f, g, o. c accumulates over all steps, so it is at least float32.

    Args:
      n_in: size of the last axis of x_t.
      n: size of the state.
      forget_bias: initial value of b_f. At 0, a new cell would halve its memory and dc every step,
        since sigmoid(0) = 1/2; at 1 it keeps a fraction of 0.73.
      w_init: initializer of w. LeCun normal: variance 1 / n_in.
      u_init: initializer of the (n, n) matrix of each gate in u. Orthogonal: it preserves norms.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x_t, h or c has another size; params are not of this cell.
      TypeError: x_t is not a float array; x is not a pair.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997,
    with the forget gate of Gers, Schmidhuber and Cummins, "Learning to Forget", Neural Computation
    12(10), 2000; its bias: Jozefowicz, Zaremba and Sutskever, "An Empirical Exploration of
    Recurrent Network Architectures", ICML 2015.
    """

    n_in: int
    n: int
    forget_bias: float = 1.0
    w_init: initializers.Initializer = _LECUN_NORMAL
    u_init: initializers.Initializer = _ORTHOGONAL
    dtype: DTypeLike = jnp.float32

    def init(self, key: Array) -> dict[str, Array]:
        w_key, u_key = jax.random.split(key)
        forget = slice(self.n, 2 * self.n)
        return {
            "w": self.w_init(w_key, (self.n_in, 4 * self.n), self.dtype),
            "u": draw_gates(self.u_init, u_key, 4, self.n, self.dtype),
            "b": jnp.zeros(4 * self.n, self.dtype).at[forget].set(self.forget_bias),
        }

    def initial(self, params: dict[str, Array], x_t: Any) -> LSTMState:
        shape = (*x_t.shape[:-1], self.n)
        h = jnp.zeros(shape, jnp.result_type(x_t.dtype, params["w"].dtype))
        return LSTMState(h, at_least_float32(h))

    def project(self, params: dict[str, Array], x: Array) -> Array:
        require_trailing(self, x, (self.n_in,), "x_t")
        n = 4 * self.n
        require_params(self, params, w=(self.n_in, n), u=(self.n, n), b=(n,))
        return x @ params["w"] + params["b"]

    def forward_step(
        self, params: dict[str, Array], z: Array, state: LSTMState
    ) -> tuple[tuple[Array, LSTMState], Any]:
        h, c = state
        require_trailing(self, h, (self.n,), "h")
        require_trailing(self, c, (self.n,), "c")
        a_i, a_f, a_g, a_o = jnp.split(at_least_float32(z + h @ params["u"]), 4, -1)
        i, f, o = jax.nn.sigmoid(a_i), jax.nn.sigmoid(a_f), jax.nn.sigmoid(a_o)
        g = jnp.tanh(a_g)
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(z.dtype)
        return (h, LSTMState(h, c)), (i, f, g, o)

    def backward_step(
        self,
        params: dict[str, Array],
        state: LSTMState,
        res: Any,
        dy: tuple[Array, LSTMState],
    ) -> tuple[Array, LSTMState]:
        (i, f, g, o), u = res, params["u"]
        dy_t, (dh, dc) = dy
        dh = at_least_float32(dy_t) + dh
        tanh_c = jnp.tanh(f * state.c + i * g)
        dc = dc + dh * o * (1 - tanh_c**2)
        da_i = dc * g * i * (1 - i)
        da_f = dc * state.c * f * (1 - f)
        da_g = dc * i * (1 - g**2)
        da_o = dh * tanh_c * o * (1 - o)
        da = jnp.concatenate([da_i, da_f, da_g, da_o], -1)
        wide = da.dtype
        da = da.astype(jnp.result_type(state.h, u))
        return da, LSTMState(jnp.matmul(da, u.T, preferred_element_type=wide), dc * f)

    def gather(
        self, params: dict[str, Array], x: Array, state: LSTMState, da: Array
    ) -> tuple[dict[str, Array], Array]:
        dparams = {
            "w": product_over_batch(x, da),
            "u": product_over_batch(state.h, da),
            "b": at_least_float32(da).sum(range(da.ndim - 1)),
        }
        return like(dparams, params), (da @ params["w"].T).astype(x.dtype)
