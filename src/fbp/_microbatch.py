"""Gradient accumulation: a batch in parts, each weighted by its share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fbp._contract import takes
from fbp._gradients import like
from fbp._layer import Array, Key, Layer, Loss, PyTree, name_of
from fbp._objective import EXAMPLES, Objective, ObjectiveParams


@dataclasses.dataclass(frozen=True)
class Microbatch:
    """The same objective, one part of the batch at a time: only one part's residuals are alive.

        value   = sum_i s_i value_i         s_i = weight of part i / weight of all parts
        dparams = sum_i s_i dparams_i

    The plain mean of the parts' means would be wrong wherever parts have different weights: a
    shorter last part, ignored labels, weighted examples. The sums are in at least float32. An `aux`
    is averaged with the same shares.

    Args:
      objective: an `Objective`.
      size: examples a part; the last part may be shorter.

    Raises:
      ValueError: size is not positive; the arrays of a batch differ in their first axis; the
        weights of parts do not add up to that of the batch.
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

    def value(self, params: ObjectiveParams, batch: PyTree, key: Key = None, **options: Any) -> Any:
        """Returns the loss, one part at a time; options as for `Objective.value`."""
        return self._weighted_sum(self.objective.value, params, batch, key, options)

    def value_and_grad(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None, **options: Any
    ) -> tuple[Any, ObjectiveParams]:
        """Returns the loss and its gradient, one part at a time; options as for `Objective`."""
        return self._weighted_sum(self.objective.value_and_grad, params, batch, key, options)

    def but_last(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None, **options: Any
    ) -> tuple[Any, tuple[Any, PyTree, Key]]:
        """Returns the sums over all parts but the last, (value, dparams), or None if there is only
        one part; and the share, examples and key of the last part, which the caller runs."""
        f = self.objective.value_and_grad
        return self._walk(f, params, batch, key, options, but_last=True)

    def _weighted_sum(
        self,
        f: Callable[..., PyTree],
        params: ObjectiveParams,
        batch: PyTree,
        key: Key,
        options: dict[str, Any],
    ) -> PyTree:
        sums, last = self._walk(f, params, batch, key, options, but_last=False)
        return f(params, *last[1:], **options) if sums is None else sums

    def _walk(
        self,
        f: Callable[..., PyTree],
        params: ObjectiveParams,
        batch: PyTree,
        key: Key,
        options: dict[str, Any],
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
        self._require_additive(batch, n)

        def weighed(i: Any, examples: PyTree) -> tuple[PyTree, Key]:
            part_key = None if key is None else jax.random.fold_in(key, i)
            # Of the target as it is prepared with the part's own key.
            options = {"key": part_key} if takes(self.objective.weight, "key") else {}
            return self.objective.weight(examples, **options), part_key

        def shared(i: Any, examples: PyTree) -> tuple[PyTree, PyTree, Key]:
            weight, part_key = weighed(i, examples)
            share = jax.tree.map(lambda w, t: w / t, weight, total)
            if isinstance(share, dict):  # several losses, each with a share of its own
                share[EXAMPLES] = jax.tree.leaves(examples)[0].shape[0] / n
            return share, examples, part_key

        def accumulate(sums: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
            share, *args = shared(*part)
            if isinstance(share, dict):
                terms, share = f(params, *args, share=share, **options), 1
            else:
                terms = f(params, *args, **options)
            return jax.tree.map(lambda s, t: s + (share * t).astype(s.dtype), sums, terms), None

        whole, rest = divmod(n, self.size)
        # Part i holds examples i, i + whole, i + 2 whole, ...: if the examples are sharded over
        # devices, every part has some on each device, and none has to move.
        parts = jax.tree.map(
            lambda a: a[: n - rest].reshape(self.size, whole, *a.shape[1:]).swapaxes(0, 1), batch
        )
        shapes = jax.eval_shape(lambda: f(params, batch, key, **options))
        sums = jax.tree.map(
            lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32)), shapes
        )
        number = jnp.arange(whole), parts
        weights = lax.map(lambda part: weighed(*part)[0], number)
        total = jax.tree.map(lambda w: w.sum(0), weights)
        if rest:
            remainder = weighed(whole, jax.tree.map(lambda a: a[n - rest :], batch))[0]
            total = jax.tree.map(jnp.add, total, remainder)
        total = jax.tree.map(lambda w: jnp.where(w == 0, 1, w), total)
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

    def _require_additive(self, batch: PyTree, n: int) -> None:
        """Raises unless the weights of parts add up to that of the batch, tried on ones.

        A weight that does not, such as a constant, would scale the loss and its gradient silently.
        """
        with jax.ensure_compile_time_eval():
            ones = jax.tree.map(_ones, batch)

            def weight(first: int, end: int) -> dict[str, float]:
                part = jax.tree.map(lambda a: a[first:end], ones)
                found = self.objective.weight(part)
                named = found if isinstance(found, dict) else {"": found}
                return {name: float(w) for name, w in named.items()}

            cut = min(self.size, n - 1)
            whole, first, second = weight(0, n), weight(0, cut), weight(cut, n)
        for name, total in whole.items():
            if not np.isclose(first[name] + second[name], total, rtol=1e-3):
                of = f" of {name}" if name else ""
                raise ValueError(
                    f"Microbatch: expected weights{of} of parts to add up to that of the batch, "
                    f"got {first[name]:g} for {cut} examples, {second[name]:g} for {n - cut} and "
                    f"{total:g} for all {n}: Loss.weight must count examples, as it does by default"
                )


def _ones(a: Array) -> Any:
    """Ones like an array, in the memory of a single one."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), a.shape)
    return np.broadcast_to(np.ones((), a.dtype), a.shape)


def objective_of(model: Layer, loss: Loss, microbatch: int | None) -> Objective | Microbatch:
    """A model and its loss as one objective, its batches taken whole or in parts."""
    objective = Objective(model, loss)
    return objective if microbatch is None else Microbatch(objective, microbatch)
