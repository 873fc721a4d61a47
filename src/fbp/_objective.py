"""A model and its loss: the whole of backpropagation in six lines."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import (
    Array,
    Key,
    Layer,
    Loss,
    Params,
    PyTree,
    like,
    name_of,
    require_layer,
    scaled,
)


class ObjectiveLike(Protocol):
    """What training makes small: an `Objective`, or anything that can be asked the same."""

    def init(self, key: Array) -> Any:
        """Draws the parameters."""

    def value(self, params: Any, batch: PyTree, key: Key = None) -> Array:
        """Returns the loss: the forward pass alone."""

    def value_and_grad(self, params: Any, batch: PyTree, key: Key = None) -> tuple[Array, Any]:
        """Returns the loss and its gradient."""

    def weight(self, batch: PyTree) -> Array:
        """Returns the share of this batch in a larger one."""


class ObjectiveParams(NamedTuple):
    """The parameters of an `Objective`: the model's, and the loss's (usually `()`)."""

    model: Params
    loss: Params


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training makes small: a model's loss on a batch `(x, target)`.

    Args:
      model: a Layer from x to y.
      loss: a Loss of y and target.
    """

    model: Layer
    loss: Loss

    def __post_init__(self) -> None:
        require_layer(self, self.model)
        if not isinstance(self.loss, Loss):
            raise TypeError(f"Objective: expected a Loss, got {self.loss!r}")

    def init(self, key: Array) -> ObjectiveParams:
        model_key, loss_key = jax.random.split(key)
        return ObjectiveParams(self.model.init(model_key), self.loss.init(loss_key))

    def value(self, params: ObjectiveParams, batch: PyTree, key: Key = None) -> Array:
        """Returns the loss: the forward pass alone."""
        x, target = batch
        y, _ = self.model.forward(params.model, x, key)
        return self.loss.value(params.loss, y, target)

    def value_and_grad(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None
    ) -> tuple[Array, ObjectiveParams]:
        """Returns the loss and its gradient: forward, turn round, backward."""
        x, target = batch
        y, res = self.model.forward(params.model, x, key)
        value, dloss, dy = self.loss.value_and_grad(params.loss, y, target)
        dmodel, _ = self.model.backward(params.model, x, res, dy)
        return value, ObjectiveParams(dmodel, dloss)

    # The same in two halves, for whoever decides between them how to go back.

    def forward(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None
    ) -> tuple[Array, PyTree]:
        """Returns the loss, and what `backward` needs: forward and turn round."""
        x, target = batch
        y, res = self.model.forward(params.model, x, key)
        value, dloss, dy = self.loss.value_and_grad(params.loss, y, target)
        return value, (res, dloss, dy)

    def backward(
        self, params: ObjectiveParams, batch: PyTree, res: PyTree, dvalue: Any = 1
    ) -> ObjectiveParams:
        """Returns dvalue times the gradient of the loss."""
        res, dloss, dy = res
        dloss, dy = scaled(dvalue, (dloss, dy))
        dmodel, _ = self.model.backward(params.model, batch[0], res, dy)
        return ObjectiveParams(dmodel, dloss)

    def weight(self, batch: PyTree) -> Array:
        """Returns the share of this batch in a larger one: what the loss's mean divides by."""
        _, target = batch
        return self.loss.weight(target)


@dataclasses.dataclass(frozen=True)
class Microbatch:
    """The same objective, its batch taken in parts, so that only one part's residuals are alive.

        value   = sum_i s_i value_i         s_i = weight of part i / weight of the whole batch
        dparams = sum_i s_i dparams_i

    The mean of the parts' means would be wrong wherever parts do not count the same: a shorter last
    part, ignored labels, weights. The sums are kept in at least float32.

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
        """Returns the sums over all parts but the last, (value, dparams), or None if there is one
        part only; and the last part's share, examples and key, which are left to the caller."""
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
        """The sums over all parts of a batch, None for one part; and the last part."""
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
        # Part i takes every whole-th example from i on: where the examples are spread over devices,
        # each device keeps its own.
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


def value_and_grad(
    model: Layer, loss: Loss, *, microbatch: int | None = None
) -> Callable[..., tuple[Array, Params]]:
    """Returns `f(params, batch, key=None) -> value, dparams`: the loss and its gradient.

    The short way to `Objective(model, loss).value_and_grad` for a loss without parameters of its
    own: `params` are the model's, `model.init(key)`, and `batch` is `(x, target)`.

    Args:
      model: a Layer from x to y.
      loss: a Loss of y and target, without parameters.
      microbatch: examples a part, to take each batch in parts (see `Microbatch`).

    Raises:
      ValueError: the loss has parameters; use `Objective`, whose params are both.
    """
    if jax.tree.leaves(jax.eval_shape(lambda: loss.init(jax.random.key(0)))):
        raise ValueError(
            f"value_and_grad: expected a loss without parameters, got {name_of(loss)}; "
            "use Objective(model, loss).value_and_grad"
        )
    objective = objective_of(model, loss, microbatch)

    def f(params: Params, batch: PyTree, key: Key = None) -> tuple[Array, Params]:
        value, dparams = objective.value_and_grad(ObjectiveParams(params, ()), batch, key)
        return value, dparams.model

    return f
