"""The contract of a cell: a layer that computes one step of a sequence.

A cell takes x = (x_t, state) and gives y = (y_t, state of the next step). What it does with x_t
before the state comes in knows no time, so a cell is written in parts, of which `Recurrent` runs
only the middle two one step after the other:

    project(params, x)                    -> z            x's share of all gates
    forward_step(params, z, state)        -> y, res       y = (y_t, next state)
    backward_step(params, state, res, dy) -> da, dstate   da: what this step owes the parameters
    gather(params, x, state, da)          -> dparams, dx

A sequence then costs one large product of x with its weights where T small ones would be, and one
for each parameter's gradient where T would be summed: the sum over time of x_t^T da_t is a product
over all steps at once.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._layer import Array, Key, Layer, Params, PyTree, like, name_of


class Cell(Layer):
    """One step of a sequence: x = (x_t, state) to y = (y_t, next state).

    Leading axes are batch axes, for `gather` those of time too. dstate comes in at least float32,
    in which `Recurrent` carries it.
    """

    @abc.abstractmethod
    def initial(self, params: Params, x_t: Any) -> PyTree:
        """Returns the state before the first step, all 0; of x_t only shape and dtype matter."""

    @abc.abstractmethod
    def project(self, params: Params, x: Array) -> PyTree:
        """Returns z, what x_t alone contributes to the step."""

    @abc.abstractmethod
    def forward_step(
        self, params: Params, z: PyTree, state: PyTree
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        """Returns y = (y_t, next state) and res: what `backward_step` needs besides."""

    @abc.abstractmethod
    def backward_step(
        self, params: Params, state: PyTree, res: PyTree, dy: tuple[Array, PyTree]
    ) -> tuple[PyTree, PyTree]:
        """Returns da, from which `gather` has every other gradient, and dstate."""

    @abc.abstractmethod
    def gather(self, params: Params, x: Array, state: PyTree, da: PyTree) -> tuple[Params, Array]:
        """Returns dparams, summed over all leading axes, and dx."""

    def forward(
        self, params: Params, x: tuple[Array, PyTree], key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        if not (isinstance(x, tuple) and len(x) == 2):
            raise TypeError(f"{name_of(self)}: expected x to be a pair (x_t, state), got {x!r}")
        x_t, state = x
        return self.forward_step(params, self.project(params, x_t), state)

    def backward(
        self, params: Params, x: tuple[Array, PyTree], res: PyTree, dy: tuple[Array, PyTree]
    ) -> tuple[Params, tuple[Array, PyTree]]:
        x_t, state = x
        da, dstate = self.backward_step(params, state, res, dy)
        dparams, dx = self.gather(params, x_t, state, da)
        return dparams, (dx, like(dstate, state))


def require_cell(owner: Any, cell: Any) -> None:
    """Raises TypeError unless it is given a Cell."""
    if not isinstance(cell, Cell):
        raise TypeError(f"{name_of(owner)}: expected a Cell, got {cell!r}")


def draw_gates(
    u_init: initializers.Initializer, key: Array, gates: int, n: int, dtype: DTypeLike
) -> Array:
    """A matrix (n, gates * n), the square of each gate drawn by itself."""
    # In at least float32: an orthogonal matrix comes from a QR, which bfloat16 does not have.
    wide = jnp.promote_types(dtype, jnp.float32)
    squares = [u_init(k, (n, n), wide) for k in jax.random.split(key, gates)]
    return jnp.concatenate(squares, -1).astype(dtype)
