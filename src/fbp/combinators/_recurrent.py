"""Recurrence: one cell applied at every step of a sequence."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from fbp._cell import Cell, require_cell
from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._require import require_float


@dataclasses.dataclass(frozen=True)
class Recurrent(Layer):
    """Runs a cell along a sequence from the state 0: y_t, s_t = cell(x_t, s_{t-1}).

        ds_{t-1} = (ds_t/ds_{t-1})^T ds_t + (dy_t/ds_{t-1})^T dy_t,        ds_T = 0
        dparams  = sum_t (dcell_t/dparams)^T (dy_t, ds_t)
        dx_t     = (dcell_t/dx_t)^T (dy_t, ds_t)

    This is backpropagation through time: the steps are layers that share their parameters, and the
    state's gradient passes back through them. The forward is one `lax.scan` and the backward one
    reverse scan, which contain only the recurrence itself: the products with x, and those for
    dparams and dx, are taken over all steps at once, outside of the scans (see `fbp._cell`).

    With `truncate=k` the state's gradient is cut before steps t = k, 2k, 3k, ... (the first step is
    t = 0): ds_{t-1} = 0 there. It is `lax.stop_gradient` of the state that enters these steps; the
    forward is unchanged.

    Keeps every step's state and the cell's residuals.

    Shapes: x (..., T, n_in), y (..., T, n).

    Args:
      cell: a Cell, such as `LSTMCell` or `GRUCell`.
      truncate: k, or None for the whole sequence.

    Raises:
      TypeError: it is not a Cell; x is not a float array.
      ValueError: truncate is below 1; x has no axis of time; whatever the cell refuses.

    Source: Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proceedings of
    the IEEE 78(10), 1990; truncation: Williams and Peng, "An Efficient Gradient-Based Algorithm for
    On-Line Training of Recurrent Network Trajectories", Neural Computation 2(4), 1990.
    """

    cell: Cell
    truncate: int | None = None

    def __post_init__(self) -> None:
        require_cell(self, self.cell)
        if self.truncate is not None and self.truncate < 1:
            raise ValueError(f"Recurrent: expected truncate to be 1 or more, got {self.truncate}")

    def init(self, key: Array) -> Params:
        return self.cell.init(key)

    def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, PyTree]:
        require_float(self, x)
        if x.ndim < 2:
            raise ValueError(f"{name_of(self)}: expected x (..., T, n_in), got shape {x.shape}")
        x = jnp.moveaxis(x, -2, 0)
        z = self.cell.project(params, x)
        start = self.cell.initial(params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
        y, _, kept = self._run(params, z, start, len(x))
        return jnp.moveaxis(y, 0, -2), kept

    def _run(
        self, params: Params, z: PyTree, start: PyTree, steps: int
    ) -> tuple[Array, PyTree, PyTree]:
        """Returns y, the state after the last step, and each step's state and residuals."""

        def one(state: PyTree, step: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
            z_t, cut = step
            if self.truncate is not None:
                state = jax.tree.map(lambda s: jnp.where(cut, lax.stop_gradient(s), s), state)
            (y_t, after), res = self.cell.forward_step(params, z_t, state)
            return after, (y_t, (state, res))

        end, (y, kept) = lax.scan(one, start, (z, self._cuts(steps)))
        return y, end, kept

    def backward(self, params: Params, x: Array, res: PyTree, dy: Array) -> tuple[Params, Array]:
        x, dy = jnp.moveaxis(x, -2, 0), jnp.moveaxis(dy, -2, 0)
        states, _ = res
        end = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], at_least_float32(s).dtype), states)

        def one(dstate: PyTree, step: PyTree) -> tuple[PyTree, PyTree]:
            dy_t, (state, res), cut = step
            da, dstate = self.cell.backward_step(params, state, res, (dy_t, dstate))
            if self.truncate is not None:
                dstate = jax.tree.map(lambda ds: jnp.where(cut, 0, ds), dstate)
            return dstate, da

        _, da = lax.scan(one, end, (dy, res, self._cuts(len(x))), reverse=True)
        dparams, dx = self.cell.gather(params, x, states, da)
        return dparams, jnp.moveaxis(dx, 0, -2)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.cell.initial(params, x)

    def steps(self, params: Params, x: Array, state: PyTree) -> tuple[Array, PyTree]:
        y, state, _ = self._run(params, self.cell.project(params, x), state, len(x))
        return y, state

    def _cuts(self, steps: int) -> Array:
        """Whether the state that enters each step is treated as a constant."""
        return jnp.arange(steps) % (self.truncate or 1) == 0
