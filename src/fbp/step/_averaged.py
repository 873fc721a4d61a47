"""An average of the weights, beside those that are trained."""

import dataclasses
from typing import Any, NamedTuple

import jax
import optax

from fbp._contract import is_float
from fbp._gradients import at_least_float32, widened
from fbp._layer import Array, Params, PyTree
from fbp.ports._update_of import update_of
from fbp.step._scaled import LossScaled


class Average(NamedTuple):
    """The state of an `Averaged`.

    Attributes:
      state: state of the optimizer.
      average: the averaged params.
    """

    state: PyTree
    average: Params


@dataclasses.dataclass(frozen=True)
class Averaged:
    """An optimizer that also keeps an exponential moving average of the params.

        average -> decay average + (1 - decay) params      after each update

    It starts at the first params. The average, `state.opt_state.average`, is for evaluation; what
    is trained does not depend on it. Kept in at least float32: in bfloat16 an average stands still.

    Args:
      optimizer: an optax optimizer.
      decay: between 0 and 1, such as 0.999.

    Raises:
      ValueError: decay is not between 0 and 1.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
    Control Optim. 30(4), 1992.
    """

    optimizer: Any
    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"Averaged: expected decay in [0, 1), got {self.decay}")
        if isinstance(self.optimizer, LossScaled):
            raise TypeError("Averaged: expected LossScaled(Averaged(...)), the scale outermost")

    def init(self, params: Params) -> Average:
        return Average(self.optimizer.init(params), widened(params))

    def update(
        self, grads: Params, state: Average, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Average]:
        if params is None:
            raise ValueError("Averaged: expected update(grads, state, params), got no params")
        updates, inner = update_of(self.optimizer)(grads, state.state, params, **extra)

        def averaged(a: Array, p: Array) -> Array:
            if not is_float(p):
                return p
            return self.decay * a + (1 - self.decay) * at_least_float32(p)

        after = optax.apply_updates(params, updates)
        return updates, Average(inner, jax.tree.map(averaged, state.average, after))
