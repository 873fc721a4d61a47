"""Losses for numbers: how far y is from its target, averaged over all elements."""

import dataclasses

import jax.numpy as jnp

from fbp._layer import Array
from fbp.losses._elementwise import Elementwise


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(Elementwise):
    """The mean squared error.

        loss = (1/n) sum (y - target)^2
        dy   = (2/n) (y - target)

    Shapes: y and target alike, of any rank; n counts all their elements. With
    `Weighted(target, weight)` each 1/n is weight / sum(weight).

    Raises:
      ValueError: the shapes of y and target differ.
      TypeError: y is not a float array.
    """

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        error = y - target
        return error**2, 2 * error


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(Elementwise):
    """The mean absolute error.

        loss = (1/n) sum |y - target|
        dy   = (1/n) sign(y - target)

    At the kink y = target the derivative is taken as 0, the middle of the subdifferential [-1, 1].
    Shapes, weights and errors as for `MeanSquaredError`.
    """

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        error = y - target
        return jnp.abs(error), jnp.sign(error)


@dataclasses.dataclass(frozen=True)
class Huber(Elementwise):
    """Squared near the target, absolute far from it, so that outliers pull with bounded force.

        loss = (1/n) sum  e^2 / 2                    where |e| <= delta,   e = y - target
                          delta (|e| - delta / 2)    elsewhere
        dy   = (1/n) clip(e, -delta, delta)

    Shapes, weights and errors as for `MeanSquaredError`.

    Args:
      delta: where the parabola ends, in the units of y.

    Source: Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Huber: expected delta to be positive, got {self.delta}")

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        error = y - target
        clipped = jnp.clip(error, -self.delta, self.delta)
        # c (e - c/2) is e^2/2 inside, where c = e, and delta (|e| - delta/2) outside.
        return clipped * (error - clipped / 2), clipped
