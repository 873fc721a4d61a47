"""Regression losses: the distance of y from its target, averaged over all elements."""

import dataclasses

import jax.numpy as jnp

from fbp._layer import Array
from fbp.losses._elementwise import Elementwise


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(Elementwise):
    """The mean squared error.

        loss = (1/n) sum (y - target)^2
        dy   = (2/n) (y - target)

    Shapes: y and target have the same shape, of any rank; n is the number of elements. With
    `Weighted(target, weight)` each 1/n is replaced by weight / sum(weight).

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
    """Squared error near the target and absolute error far from it, so that dy is bounded.

        loss = (1/n) sum  e^2 / 2                    where |e| <= delta,   e = y - target
                          delta (|e| - delta / 2)    elsewhere
        dy   = (1/n) clip(e, -delta, delta)

    Shapes, weights and errors as for `MeanSquaredError`.

    Args:
      delta: the |e| at which the loss turns from quadratic to linear.

    Source: Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Huber: expected delta to be positive, got {self.delta}")

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        error = y - target
        clipped = jnp.clip(error, -self.delta, self.delta)
        # With c = clipped, c (e - c/2) is e^2/2 for |e| <= delta, else delta (|e| - delta/2).
        return clipped * (error - clipped / 2), clipped
