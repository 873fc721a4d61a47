"""Steps whose gradient is far larger than usual are not taken."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbp._layer import Array, Params, PyTree
from fbp.ports._squares import sum_of_squares
from fbp.ports._update_of import update_of
from fbp.step._scaled import LossScaled
from fbp.step._step import all_finite


class Spikes(NamedTuple):
    """The state of a `SpikesSkipped`.

    Attributes:
      state: state of the optimizer.
      norm: the usual norm of a gradient, a moving average.
      seen: number of gradients.
      skipped: number of those that were skipped.
    """

    state: PyTree
    norm: Array
    seen: Array
    skipped: Array


@dataclasses.dataclass(frozen=True)
class SpikesSkipped:
    """An optimizer that does not take a step whose gradient is far larger than usual.

        skipped if ||g|| > times norm
        norm -> decay norm + (1 - decay) min(||g||, times norm)

    where ||g|| is the norm over all parameters together. A skipped step changes neither the params
    nor the optimizer's state, and is counted in `state.opt_state.skipped`. What stays large becomes
    usual: the norm grows with each skipped step too. It begins as the mean of the first gradients,
    `warmup` of which are always taken. A gradient that is not finite is no spike: it is passed on,
    as a mistake that a training should stop at.

    Args:
      optimizer: an optax optimizer; it may be `Clipped`, which then clips what is not skipped.
      times: a spike is larger than usual by this factor.
      decay: of the moving average, between 0 and 1.
      warmup: number of gradients before the first that may be skipped.

    Raises:
      ValueError: times is not above 1, decay is not between 0 and 1, or warmup is below 1.
    """

    optimizer: Any
    times: float = 10.0
    decay: float = 0.99
    warmup: int = 20

    def __post_init__(self) -> None:
        if not self.times > 1:
            raise ValueError(f"SpikesSkipped: expected times above 1, got {self.times}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"SpikesSkipped: expected decay in [0, 1), got {self.decay}")
        if self.warmup < 1:
            raise ValueError(f"SpikesSkipped: expected a warmup of 1 or more, got {self.warmup}")
        if isinstance(self.optimizer, LossScaled):
            raise TypeError(
                "SpikesSkipped: expected LossScaled(SpikesSkipped(...)), the scale outermost"
            )

    def init(self, params: Params) -> Spikes:
        zero = jnp.zeros((), jnp.int32)
        return Spikes(self.optimizer.init(params), jnp.zeros(()), zero, zero)

    def update(
        self, grads: Params, state: Spikes, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Spikes]:
        norm = jnp.sqrt(sum_of_squares(grads)).astype(state.norm.dtype)
        most = self.times * state.norm
        warm = state.seen >= self.warmup
        # A norm may overflow where the gradient does not.
        finite = all_finite(grads)
        skips = warm & (norm > most) & finite

        def taken() -> tuple[Params, PyTree]:
            return update_of(self.optimizer)(grads, state.state, params, **extra)

        def skipped() -> tuple[Params, PyTree]:
            # The dtypes of what is not computed here.
            updates, _ = jax.eval_shape(taken)
            return jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), updates), state.state

        updates, inner = jax.lax.cond(skips, skipped, taken)
        # A gradient that is not finite, or 0, is not what is usual.
        seen = state.seen + (finite & (norm > 0))
        # The plain mean of the first ones, and then the moving average.
        part = jnp.where(warm, 1 - self.decay, 1 / jnp.maximum(seen, 1))
        usual = state.norm + part * (jnp.where(skips, most, norm) - state.norm)
        usual = jnp.where(jnp.isfinite(usual), usual, state.norm)
        return updates, Spikes(inner, usual, seen, state.skipped + skips)
