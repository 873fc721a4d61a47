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

    y and target may also be matching trees of arrays: the mean is over all elements of all arrays,
    so that a larger array counts for more (`Losses` weighs parts as one chooses). Then a weight has
    the first axes of every array.

    Raises:
      ValueError: the shapes or trees of y and target differ.
      TypeError: y has an array that is not of floats.
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


@dataclasses.dataclass(frozen=True)
class Quantile(Elementwise):
    """The pinball loss, which is least where y is the q-th quantile of the targets.

        loss = (1/n) sum  q e          where e > 0,   e = target - y
                          (q - 1) e    elsewhere
        dy   = (1/n)      -q           where e > 0
                          1 - q        where e < 0

    At the kink y = target the derivative is taken as 1/2 - q, the middle of the subdifferential
    [-q, 1 - q], so that twice the loss at q = 1/2 is `MeanAbsoluteError`, gradient and all. Shapes,
    trees, weights and errors as for `MeanSquaredError`.

    Args:
      q: the quantile, between 0 and 1: 0.9 for a number that a tenth of the targets exceeds.

    Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46, 1978.
    """

    q: float

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ValueError(f"Quantile: expected q between 0 and 1, got {self.q}")

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        e = target - y
        loss = jnp.maximum(self.q * e, (self.q - 1) * e)
        # Where e is neither above nor below 0 it is 0, or NaN, which stays NaN.
        middle = 0.5 - self.q + e
        return loss, jnp.where(e > 0, -self.q, jnp.where(e < 0, 1 - self.q, middle))
