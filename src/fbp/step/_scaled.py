"""Loss scaling for float16: gradients too small for it are multiplied before they are rounded."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbp._gradients import widened
from fbp._layer import Array, Params, PyTree
from fbp.ports._update_of import update_of


class LossScale(NamedTuple):
    """The state of a `LossScaled`.

    Attributes:
      state: state of the optimizer.
      scale: by which the next gradient is multiplied.
      finite: number of steps since the scale was changed.
    """

    state: PyTree
    scale: Array
    finite: Array


@dataclasses.dataclass(frozen=True)
class LossScaled:
    """An optimizer for a model in float16: the loss's gradient is scaled, and unscaled before it.

        dy -> scale dy      at the loss, before dy is rounded to float16
        g  -> g / scale     in float32, before the optimizer

    float16 has no positive number below 6e-8: most of dy of a large batch would be 0. `step_of`
    gives the scale to the objective, where this is the outermost wrapper. A step whose gradient is
    not finite changes nothing but the scale, which is halved; after `every` finite steps in a row
    it is doubled. bfloat16 does not need it. The optimizer is given params and gradients in at
    least float32, also where params are stored in float16.

    Args:
      optimizer: an optax optimizer; it may be `Clipped`.
      scale: the first scale.
      every: number of finite steps before the scale is doubled; None keeps it.

    Raises:
      ValueError: scale is not above 0; every is below 1.

    Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018.
    """

    optimizer: Any
    scale: float = 2.0**15
    every: int | None = 2000

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"LossScaled: expected scale above 0, got {self.scale}")
        if self.every is not None and self.every < 1:
            raise ValueError(f"LossScaled: expected every of 1 or more, got {self.every}")

    def init(self, params: Params) -> LossScale:
        inner = self.optimizer.init(widened(params))
        return LossScale(inner, jnp.float32(self.scale), jnp.zeros((), jnp.int32))

    def update(
        self, grads: Params, state: LossScale, params: Params | None = None, **extra: Any
    ) -> tuple[Params, LossScale]:
        grads = jax.tree.map(lambda g: g / state.scale, widened(grads))
        extra = {**extra, "grad": grads} if "grad" in extra else extra
        leaves = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
        finite = jnp.stack(leaves).all() if leaves else jnp.asarray(True)

        def made() -> tuple[Params, PyTree]:
            return update_of(self.optimizer)(grads, state.state, widened(params), **extra)

        def refused() -> tuple[Params, PyTree]:
            return jax.tree.map(jnp.zeros_like, grads), state.state

        updates, inner = jax.lax.cond(finite, made, refused)
        return updates, LossScale(inner, *self._next(state, finite))

    def _next(self, state: LossScale, finite: Array) -> tuple[Array, Array]:
        """The scale after this step, and the number of finite steps with it."""
        count = jnp.where(finite, state.finite + 1, 0)
        grow = jnp.asarray(False) if self.every is None else count >= self.every
        # Beyond 2^24 even a gradient of 0.004 is not finite in float16.
        larger = jnp.maximum(state.scale, jnp.minimum(2 * state.scale, 2.0**24))
        smaller = jnp.minimum(state.scale, jnp.maximum(state.scale / 2, 1.0))
        scale = jnp.where(finite, jnp.where(grow, larger, state.scale), smaller)
        return scale, jnp.where(grow, 0, count)
