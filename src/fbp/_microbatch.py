"""Gradient accumulation: a batch in parts, each weighted by its share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Key, Layer, Loss, PyTree, like, name_of
from fbp._objective import Objective, ObjectiveParams


@dataclasses.dataclass(frozen=True)
class Microbatch:
    """The same objective, one part of the batch at a time: only one part's residuals are alive.

        value   = sum_i s_i value_i         s_i = weight of part i / weight of the whole batch
        dparams = sum_i s_i dparams_i

    The plain mean of the parts' means would be wrong wherever parts have different weights: a
    shorter last part, ignored labels, weighted examples. The sums are in at least float32.

    Args:
      objective: an `Objective`.
      size: examples a part; the last part may be shorter.

    Raises:
      ValueError: size is not positive; the arrays of a batch differ in their first axis.
    """

    objective: Objective
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Microbatch: expected size to be 1 or more, got {self.size}")

    def init(self, key: Array) -> ObjectiveParams:
        return self.objective.init(key)

    def weight(self, batch: PyTree) -> Array:
        return self.objective.weight(batch)

    def value(self, params: ObjectiveParams, batch: PyTree, key: Key = None) -> Array:
        """Returns the loss, one part at a time."""
        return self._weighted_sum(self.objective.value, params, batch, key)

    def value_and_grad(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None
    ) -> tuple[Array, ObjectiveParams]:
        """Returns the loss and its gradient, one part at a time."""
        return self._weighted_sum(self.objective.value_and_grad, params, batch, key)

    def but_last(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None
    ) -> tuple[Any, tuple[Any, PyTree, Key]]:
        """Returns the sums over all parts but the last, (value, dparams), or None if there is only
        one part; and the share, examples and key of the last part, which the caller runs."""
        return self._walk(self.objective.value_and_grad, params, batch, key, but_last=True)

    def _weighted_sum(
        self, f: Callable[..., PyTree], params: ObjectiveParams, batch: PyTree, key: Key
    ) -> PyTree:
        sums, last = self._walk(f, params, batch, key, but_last=False)
        return f(params, *last[1:]) if sums is None else sums

    def _walk(
        self,
        f: Callable[..., PyTree],
        params: ObjectiveParams,
        batch: PyTree,
        key: Key,
        but_last: bool,
    ) -> tuple[PyTree, Any]:
        """The sums over the parts of a batch, None for a single part; and the last part."""
        batch = jax.tree.map(jnp.asarray, batch)
        sizes = {str(leaf.shape[0]) if leaf.ndim else "none" for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1 or "none" in sizes:
            got = ", ".join(sorted(sizes))
            raise ValueError(f"{name_of(self)}: expected one size of the first axis, got [{got}]")
        n = jax.tree.leaves(batch)[0].shape[0]
        if n <= self.size:
            return None, (1, batch, key)
        total = self.objective.weight(batch)
        total = jnp.where(total == 0, 1, total)

        def shared(i: Any, examples: PyTree) -> tuple[Array, PyTree, Key]:
            share = self.objective.weight(examples) / total
            return share, examples, None if key is None else jax.random.fold_in(key, i)

        def accumulate(sums: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
            share, *args = shared(*part)
            terms = f(params, *args)
            return jax.tree.map(lambda s, t: s + (share * t).astype(s.dtype), sums, terms), None

        whole, rest = divmod(n, self.size)
        # Part i holds examples i, i + whole, i + 2 whole, ...: if the examples are sharded over
        # devices, every part has some on each device, and none has to move.
        parts = jax.tree.map(
            lambda a: a[: n - rest].reshape(self.size, whole, *a.shape[1:]).swapaxes(0, 1), batch
        )
        shapes = jax.eval_shape(f, params, batch, key)
        sums = jax.tree.map(
            lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32)), shapes
        )
        number = jnp.arange(whole), parts
        if rest:
            last = whole, jax.tree.map(lambda a: a[n - rest :], batch)
        else:
            last = whole - 1, jax.tree.map(lambda a: a[-1], parts)
            if but_last:
                number = jax.tree.map(lambda a: a[:-1], number)
        sums, _ = lax.scan(accumulate, sums, number)
        if rest and not but_last:
            sums, _ = accumulate(sums, last)
        return like(sums, shapes), shared(*last) if but_last else None


def objective_of(model: Layer, loss: Loss, microbatch: int | None) -> Objective | Microbatch:
    """A model and its loss as one objective, its batches taken whole or in parts."""
    objective = Objective(model, loss)
    return objective if microbatch is None else Microbatch(objective, microbatch)
