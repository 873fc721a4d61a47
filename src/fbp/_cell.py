"""The contract of a cell: a layer that computes one step of a sequence.

A cell takes x = (x_t, state) and returns y = (y_t, state of the next step). What it does with x_t
alone does not depend on the step before, so a cell is written in four parts, of which `Recurrent`
runs only the middle two step by step:

    project(params, x)                    -> z            the contribution of x to all gates
    forward_step(params, z, state)        -> y, res       y = (y_t, next state)
    backward_step(params, state, res, dy) -> da, dstate   da: gradient of the gates' arguments
    gather(params, x, state, da)          -> dparams, dx

A sequence of T steps then takes one large product of x with its weights instead of T small ones,
and one for the gradient of each parameter: the sum over time of x_t^T da_t is a single product over
all steps.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._described import described
from fbp._gradients import like
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of


class Cell(Layer):
    """One step of a sequence: x = (x_t, state) to y = (y_t, next state).

    Leading axes are batch axes; in `gather` they include time. dstate arrives in at least float32,
    the dtype in which `Recurrent` carries it.
    """

    @abc.abstractmethod
    def initial(self, params: Params, x_t: Any) -> PyTree:
        """Returns the state before the first step, all 0; only x_t's shape and dtype are used."""

    @abc.abstractmethod
    def project(self, params: Params, x: Array) -> PyTree:
        """Returns z, the part of the step that depends on x alone."""

    @abc.abstractmethod
    def forward_step(
        self, params: Params, z: PyTree, state: PyTree
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        """Returns y = (y_t, next state) and res, the residuals of `backward_step`."""

    @abc.abstractmethod
    def backward_step(
        self, params: Params, state: PyTree, res: PyTree, dy: tuple[Array, PyTree]
    ) -> tuple[PyTree, PyTree]:
        """Returns da, from which `gather` computes all other gradients, and dstate."""

    @abc.abstractmethod
    def gather(self, params: Params, x: Array, state: PyTree, da: PyTree) -> tuple[Params, Array]:
        """Returns dparams, summed over all leading axes, and dx."""

    def forward(
        self, params: Params, x: tuple[Array, PyTree], key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        if not (isinstance(x, tuple) and len(x) == 2):
            raise TypeError(
                f"{name_of(self)}: expected x to be a pair (x_t, state), got {described(x)}"
            )
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
        raise TypeError(f"{name_of(owner)}: expected a Cell, got {described(cell)}")


def draw_gates(
    u_init: initializers.Initializer, key: Array, gates: int, n: int, dtype: DTypeLike
) -> Array:
    """A matrix (n, gates * n): one square block a gate, each initialized on its own."""
    # In at least float32: orthogonal initializers use a QR decomposition, which bfloat16 lacks.
    wide = jnp.promote_types(dtype, jnp.float32)
    squares = [u_init(k, (n, n), wide) for k in jax.random.split(key, gates)]
    return jnp.concatenate(squares, -1).astype(dtype)
