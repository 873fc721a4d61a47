"""Base class of losses that compare y with its target element by element."""

import abc
from typing import Any

import jax.numpy as jnp

from fbp._layer import Array, Loss, at_least_float32, name_of, require_float
from fbp.losses._mean import shares, unweighted, weighted_sum


class Elementwise(Loss):
    """The mean over all elements of a function of y and target."""

    @abc.abstractmethod
    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Returns the loss of each element and its derivative with respect to y."""

    def value_and_grad(
        self, params: tuple[()], y: Array, target: Any
    ) -> tuple[Array, tuple[()], Array]:
        require_float(self, y, "y")
        target, weight = unweighted(target)
        if jnp.shape(target) != y.shape:
            # Broadcasting (B, 1) against (B,) would silently average B * B differences.
            raise ValueError(
                f"{name_of(self)}: expected target to have the shape of y, {y.shape}, "
                f"got shape {jnp.shape(target)}"
            )
        wide = at_least_float32(y)
        share = shares(self, weight, y.shape, wide.dtype)
        loss, slope = self.element(wide, jnp.asarray(target, wide.dtype))
        dy = jnp.where(share == 0, 0, share * slope)
        return weighted_sum(share, loss), (), dy.astype(y.dtype)

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        return jnp.sum(jnp.ones(jnp.shape(target)[:1]) if weight is None else weight)
