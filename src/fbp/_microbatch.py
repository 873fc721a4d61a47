"""Gradient accumulation: a batch in parts, each weighted by its share."""

import dataclasses
import functools
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
      groups: the number of devices, or groups of them, that the examples lie on, in equal groups
        side by side: a part has as many of every group, each group adds up the gradients of its own
        examples, and the sums are added once, at the end. `fbp.mesh` sets it. Noise is drawn for
        each group.
      axis: the axis of a mesh that the groups lie over, for `jax.vmap`.

    Raises:
      ValueError: size is not positive; the arrays of a batch differ in their first axis; the
        weights of parts do not add up to that of the batch.
    """

    objective: Objective
    size: int
    groups: int = 1
    axis: Any = None

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

    def sizes(self, n: int) -> tuple[int, int]:
        """The numbers of examples that a group has in each part, and in the last, shorter one."""
        each = n // self.groups
        size = max(1, min(each, self.size // self.groups))
        return size, each % size

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
        if n <= self.size and self.groups == 1:
            return None, (1, batch, key)
        if n % self.groups:
            raise ValueError(
                f"{name_of(self)}: expected a batch that {self.groups} groups of devices divide, "
                f"got {n} examples"
            )
        groups, each = self.groups, n // self.groups
        size, rest = self.sizes(n)
        if n > 1:
            self._require_additive(batch, n)

        def weighed(i: Any, examples: PyTree, g: Any = None) -> tuple[PyTree, Key]:
            part_key = None if key is None else jax.random.fold_in(key, i)
            if part_key is not None and g is not None:
                part_key = jax.random.fold_in(part_key, g)
            # Of the target as it is prepared with the part's own key.
            options = {"key": part_key} if takes(self.objective.weight, "key") else {}
            return self.objective.weight(examples, **options), part_key

        def shared(i: Any, examples: PyTree, g: Any = None) -> tuple[PyTree, PyTree, Key]:
            weight, part_key = weighed(i, examples, g)
            share = jax.tree.map(lambda w, t: w / t, weight, total)
            if isinstance(share, dict):  # several losses, each with a share of its own
                share[EXAMPLES] = jax.tree.leaves(examples)[0].shape[0] / n
            return share, examples, part_key

        def terms(share: PyTree, examples: PyTree, key: Key) -> PyTree:
            if isinstance(share, dict):
                return f(params, examples, key, share=share, **options)
            return jax.tree.map(
                lambda t: (share * t).astype(jnp.promote_types(t.dtype, jnp.float32)),
                f(params, examples, key, **options),
            )

        def of_groups(of: Callable[..., PyTree], i: Any, examples: PyTree) -> PyTree:
            """of(i, examples, g) for the examples of each group, stacked."""
            if groups == 1:
                one = of(i, jax.tree.map(lambda a: a[0], examples))
                return jax.tree.map(lambda a: jnp.asarray(a)[None], one)
            by_group = jax.vmap(functools.partial(of, i), spmd_axis_name=self.axis)
            return by_group(examples, jnp.arange(groups))

        def accumulate(sums: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
            more = of_groups(lambda *args: terms(*shared(*args)), *part)
            return jax.tree.map(lambda s, t: s + t.astype(s.dtype), sums, more), None

        whole = each // size
        grouped = jax.tree.map(lambda a: a.reshape(groups, each, *a.shape[1:]), batch)
        # Of a group, part i holds examples i, i + whole, i + 2 whole, ...: if they are sharded over
        # devices, every part has some on each device, and none has to move.
        parts = jax.tree.map(
            lambda a: jnp.moveaxis(
                a[:, : each - rest].reshape(groups, size, whole, *a.shape[2:]), 2, 0
            ),
            grouped,
        )
        shapes = jax.eval_shape(lambda: f(params, batch, key, **options))
        sums = jax.tree.map(
            lambda a: jnp.zeros((groups, *a.shape), jnp.promote_types(a.dtype, jnp.float32)), shapes
        )
        number = jnp.arange(whole), parts

        def weights(part: tuple[Any, PyTree]) -> PyTree:
            return of_groups(lambda *args: weighed(*args)[0], *part)

        total = jax.tree.map(jnp.sum, lax.map(weights, number))
        if rest:
            left = whole, jax.tree.map(lambda a: a[:, each - rest :], grouped)
            total = jax.tree.map(lambda t, w: t + w.sum(), total, weights(left))
        total = jax.tree.map(lambda w: jnp.where(w == 0, 1, w), total)
        if rest:
            last = left
        else:
            last = whole - 1, jax.tree.map(lambda a: a[-1], parts)
            if but_last:
                number = jax.tree.map(lambda a: a[:-1], number)
        sums, _ = lax.scan(accumulate, sums, number)
        if rest and not but_last:
            sums, _ = accumulate(sums, last)
        sums = like(jax.tree.map(lambda a: a.sum(0), sums), shapes)
        if not but_last:
            return sums, None
        # The last part has all groups at once: it is not added to any sum here.
        merged = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), last[1])
        return sums, shared(last[0], merged)

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
