"""Base class of losses of y alone, whose target at most says how examples count."""

import abc
from typing import Any

import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32
from fbp._layer import Array, Loss, name_of
from fbp._require import require_float
from fbp.losses._mean import count_examples, shares, unweighted, weighted_sum

Parts = dict[str, Array]


class Targetless(Loss):
    """The mean over all rows of a function of named parts of y, of the same shape.

    No number of the target is read. It may be None; in a batch that is cut into parts it is an
    array with examples as its first axis, by which these are counted, or `Weighted(None, weight)`.
    """

    names: tuple[str, ...] = ()

    @abc.abstractmethod
    def rows(self, y: Parts) -> tuple[Array, Parts]:
        """Returns the loss of each row, and its derivatives with respect to the parts of y."""

    def value_and_grad(
        self, params: tuple[()], y: Parts, target: Any
    ) -> tuple[Array, tuple[()], Parts]:
        require_parts(self, y, self.names)
        _, weight = unweighted(target)
        losses, slopes = self.rows(widened(y))
        share = shares(self, weight, losses.shape, losses.dtype)
        row = share[..., None]
        dy = {
            name: jnp.where(row == 0, 0, row * slope).astype(y[name].dtype)
            for name, slope in slopes.items()
        }
        return weighted_sum(share, losses), (), dy

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        return count_examples(self, target) if weight is None else jnp.sum(weight)


def widened(y: Parts) -> Parts:
    """The parts of y in one dtype, of at least float32."""
    dtype = jnp.result_type(*map(at_least_float32, y.values()))
    return {name: a.astype(dtype) for name, a in y.items()}


def require_parts(owner: Any, y: Any, names: tuple[str, ...], axes: int = 1) -> None:
    """Raises unless y is a dict of just these float arrays, all of one shape."""
    if not isinstance(y, dict) or set(y) != set(names):
        raise ValueError(
            f"{name_of(owner)}: expected y to be a dict of {', '.join(names)}, got {described(y)}"
        )
    for name in names:
        require_float(owner, y[name], f"y[{name!r}]")
    shapes = {y[name].shape for name in names}
    if len(shapes) > 1 or len(next(iter(shapes))) < axes:
        got = ", ".join(f"{name} {y[name].shape}" for name in names)
        raise ValueError(
            f"{name_of(owner)}: expected {', '.join(names)} of one shape, of {axes} or more "
            f"axes, got {got}"
        )
