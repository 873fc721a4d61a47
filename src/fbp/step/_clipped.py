"""Gradient clipping by the global norm."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbp._layer import Array, Params, PyTree
from fbp.ports._squares import sum_of_squares
from fbp.ports._update_of import update_of

EXACT, PREVIOUS = "exact", "previous"


class PreviousNorm(NamedTuple):
    """The state of `Clipped(..., by="previous")`.

    Attributes:
      state: state of the optimizer.
      norm: norm of the last gradient before clipping; 0 before the first step.
    """

    state: PyTree
    norm: Array


@dataclasses.dataclass(frozen=True)
class Clipped:
    """An optimizer whose gradients are first clipped to a global norm of at most `norm`.

        g -> g * min(1, norm / ||g||)

    where ||g|| is the norm over all parameters together. It is an optax optimizer. With
    `in_backward=True` a step runs `optimizer` inside the backward pass, before ||g|| is known, so

        by="exact"     runs the backward twice, first only for the norm. This costs the time of one
                       more backward, and computes the same numbers as without `in_backward`
        by="previous"  uses the norm of the previous step's gradient instead, at no cost; the first
                       step is not clipped, and the step at which the norm grows suddenly is
                       clipped too little

    Args:
      optimizer: an optax optimizer.
      norm: the largest norm.
      by: "exact" or "previous".

    Raises:
      ValueError: norm is not above 0; `by` is neither.

    Source: Pascanu, Mikolov and Bengio, "On the Difficulty of Training Recurrent Neural Networks",
    ICML 2013.
    """

    optimizer: Any
    norm: float
    by: str = EXACT

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"Clipped: expected norm above 0, got {self.norm}")
        if self.by not in (EXACT, PREVIOUS):
            raise ValueError(f'Clipped: expected by "exact" or "previous", got {self.by!r}')

    def init(self, params: Params) -> PyTree:
        inner = self.optimizer.init(params)
        return PreviousNorm(inner, jnp.zeros(())) if self.by == PREVIOUS else inner

    def update(
        self, grads: Params, state: PyTree, params: Params | None = None, **extra: Any
    ) -> tuple[Params, PyTree]:
        norm = jnp.sqrt(sum_of_squares(grads))
        scale = self.scale(norm if self.by == EXACT else state.norm)
        grads = jax.tree.map(lambda g: (scale * g).astype(g.dtype), grads)
        updates, inner = update_of(self.optimizer)(grads, self.inner(state), params, **extra)
        return updates, self.with_norm(inner, norm, state)

    def scale(self, norm: Array) -> Array:
        """Returns the factor that clips a gradient of this norm."""
        return jnp.where(norm > self.norm, self.norm / norm, 1)

    def inner(self, state: PyTree) -> PyTree:
        """Returns the state of the wrapped optimizer."""
        return state.state if self.by == PREVIOUS else state

    def with_norm(self, inner: PyTree, norm: Array, before: PyTree) -> PyTree:
        """Returns the state, made of that of the wrapped optimizer and the norm of this step's
        gradient. A norm that is not finite is replaced by that of the state before."""
        if self.by == EXACT:
            return inner
        return PreviousNorm(inner, jnp.where(jnp.isfinite(norm), norm, before.norm))
