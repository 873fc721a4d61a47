"""A model and its loss: the whole of backpropagation in six lines."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import scaled
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree, name_of, split
from fbp._require import require_layer
from fbp._turn import rounded, value_and_grad_of, value_of, wide_gradient

# Among the shares of several losses, which have names, that of examples: it weighs `aux`.
EXAMPLES = ""


class ObjectiveLike(Protocol):
    """What training minimizes: an `Objective`, or anything with the same methods.

    `value_and_grad` may take two more arguments: `has_aux=True` returns (value, aux) in the place
    of value, and `scale` multiplies the gradient (see `Objective`).
    """

    def init(self, key: Array) -> Any:
        """Draws the parameters."""

    def value(self, params: Any, batch: PyTree, key: Key = None) -> Array:
        """Returns the loss: the forward pass alone."""

    def value_and_grad(self, params: Any, batch: PyTree, key: Key = None) -> tuple[Array, Any]:
        """Returns the loss and its gradient."""

    def weight(self, batch: PyTree) -> Array:
        """Returns how much this batch counts as a part of a larger one."""


class ObjectiveParams(NamedTuple):
    """The parameters of an `Objective`: the model's, and the loss's (usually `()`)."""

    model: Params
    loss: Params


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimizes: a model's loss on a batch `(x, target)`.

    Args:
      model: a Layer from x to y.
      loss: a Loss of y and target.
      prepare: prepare(batch, key) -> (x, target), for batches of another form, or to add noise as a
        diffusion model does; the key is None in evaluation. It has no gradient.
      aux: aux(y, target) -> a tree of numbers to report, such as an accuracy, computed from the
        forward that the gradient needs anyway. It has no gradient. Where a batch is taken in parts
        it is averaged over them, so these should be means over examples: they are given as floats.

    Raises:
      TypeError: the model is not a Layer, or the loss not a Loss; params are not `ObjectiveParams`;
        a batch is not (x, target).
      ValueError: has_aux is asked for where there is no aux.
    """

    model: Layer
    loss: Loss
    prepare: Callable[[PyTree, Key], tuple[PyTree, PyTree]] | None = None
    aux: Callable[[PyTree, PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        require_layer(self, self.model)
        if not isinstance(self.loss, Loss):
            cure = ""
            if isinstance(self.loss, type) and issubclass(self.loss, Loss):
                cure = f": make one, {self.loss.__name__}(...)"
            elif callable(self.loss):
                cure = ": make a loss of it by fbp.loss_from_jax"
            raise TypeError(f"Objective: expected a Loss, got {described(self.loss)}{cure}")

    def init(self, key: Array) -> ObjectiveParams:
        model_key, loss_key = jax.random.split(key)
        return ObjectiveParams(self.model.init(model_key), self.loss.init(loss_key))

    def value(
        self,
        params: ObjectiveParams,
        batch: PyTree,
        key: Key = None,
        *,
        has_aux: bool = False,
        share: Any = None,
    ) -> Any:
        """Returns the loss, or (loss, aux): the forward pass alone."""
        x, target, key, loss_key = self.inputs(params, batch, key)
        y, _ = self.model.forward(params.model, x, key)
        value = value_of(self.loss, params.loss, y, target, loss_key, share)
        return self._reported(value, y, target, has_aux, share)

    def value_and_grad(
        self,
        params: ObjectiveParams,
        batch: PyTree,
        key: Key = None,
        *,
        has_aux: bool = False,
        scale: Any = None,
        share: Any = None,
    ) -> tuple[Any, ObjectiveParams]:
        """Returns the loss and its gradient: forward, loss, backward.

        Args:
          params: an `ObjectiveParams`.
          batch: (x, target), or what `prepare` takes.
          key: a key for noise.
          has_aux: return ((loss, aux), gradient).
          scale: multiplies the gradient, before dy is rounded to the dtype of y: for float16.
          share: the share of each part of a `Losses` in a larger batch (see `Microbatch`).
        """
        x, target, key, loss_key = self.inputs(params, batch, key)
        y, res = self.model.forward(params.model, x, key)
        value, dloss, dy = self._turn(params.loss, y, target, loss_key, scale, share)
        dmodel, _ = self.model.backward(params.model, x, res, dy)
        return self._reported(value, y, target, has_aux, share), ObjectiveParams(dmodel, dloss)

    # The same in two halves, for callers that choose the backward after seeing the loss.

    def forward(
        self,
        params: ObjectiveParams,
        batch: PyTree,
        key: Key = None,
        *,
        has_aux: bool = False,
        share: Any = None,
    ) -> tuple[Any, PyTree]:
        """Returns the loss, or (loss, aux), and the residuals that `backward` needs."""
        x, target, key, loss_key = self.inputs(params, batch, key)
        y, res = self.model.forward(params.model, x, key)
        value, gradient, dtypes = wide_gradient(self.loss, params.loss, y, target, loss_key, share)
        kept = (res, gradient, dtypes, None if self.prepare is None else x)
        return self._reported(value, y, target, has_aux, share), kept

    def backward(
        self, params: ObjectiveParams, batch: PyTree, res: PyTree, dvalue: Any = 1
    ) -> ObjectiveParams:
        """Returns dvalue times the gradient of the loss."""
        return self._backward(params, batch, res, dvalue)[0]

    def input_grad(self, params: ObjectiveParams, batch: PyTree, key: Key = None) -> Any:
        """Returns the loss and dx: its gradient with respect to the model's input."""
        value, res = self.forward(params, batch, key)
        return value, self._backward(params, batch, res, 1)[1]

    def weight(self, batch: PyTree, key: Key = None) -> Array:
        """Returns how much this batch counts as a part of a larger one: the divisor of the mean.

        With the key of `value_and_grad` it is that of the target that is prepared there.
        """
        if self.loss.draws:
            key, _ = split(key, 2)
        _, target = self._prepared(batch, self._split(key)[1])
        return self.loss.weight(target)

    def _backward(
        self, params: ObjectiveParams, batch: PyTree, res: PyTree, dvalue: Any
    ) -> tuple[ObjectiveParams, PyTree]:
        res, gradient, dtypes, x = res
        dloss, dy = rounded(dvalue, gradient, dtypes)
        x = batch[0] if self.prepare is None else x
        dmodel, dx = self.model.backward(params.model, x, res, dy)
        return ObjectiveParams(dmodel, dloss), dx

    def inputs(
        self, params: ObjectiveParams, batch: PyTree, key: Key
    ) -> tuple[PyTree, PyTree, Key, Key]:
        """Returns x and the target, after `prepare`, and keys for the model and for the loss."""
        if not isinstance(params, ObjectiveParams):
            raise TypeError(
                f"Objective: expected ObjectiveParams(model, loss), got {described(params)}: "
                f"those of {name_of(self.model)} alone are ObjectiveParams(params, ()), "
                "and Objective.init draws both"
            )
        loss_key = None
        # A key that nothing else draws from is the model's as it is.
        if self.loss.draws:
            key, loss_key = split(key, 2)
        key, prepare_key = self._split(key)
        return *self._prepared(batch, prepare_key), key, loss_key

    def _split(self, key: Key) -> list[Key]:
        """A key for the rest, and one for `prepare`."""
        return [key, None] if self.prepare is None else split(key, 2)

    def _prepared(self, batch: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        by = "a batch"
        if self.prepare is not None:
            batch, by = self.prepare(batch, key), "prepare to return"
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            cure = "give a pair, or give Objective a prepare=lambda batch, key: (x, target)"
            raise TypeError(f"Objective: expected {by} (x, target), got {described(batch)}: {cure}")
        x, target = batch
        return x, target

    def _turn(self, *args: Any) -> tuple[Array, Params, PyTree]:
        """The loss, dloss and dy: where forward turns into backward."""
        return value_and_grad_of(self.loss, *args)

    def _reported(self, value: Array, y: PyTree, target: PyTree, has_aux: bool, share: Any) -> Any:
        """The loss, or (loss, aux)."""
        if not has_aux:
            return value
        if self.aux is None:
            raise ValueError(
                "Objective: expected an aux to report, got none: give Objective(model, loss, "
                "aux=lambda y, target: ...)"
            )
        aux = jax.tree.map(_as_float, self.aux(y, target))
        return value, aux if share is None else scaled(share[EXAMPLES], aux)


def _as_float(a: Any) -> Array:
    """An average of integers, over parts of a batch, is a float."""
    return jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32))


def input_grad(
    objective: Any, params: Params, batch: PyTree, key: Key = None
) -> tuple[Array, PyTree]:
    """Returns the loss and its gradient with respect to the model's input x.

    The backward computes dx on its way; training drops it. Adversarial examples follow it, and
    saliency maps show it. (dy/dx of a layer alone is `layer.backward(params, x, res, dy)[1]`.)

    Args:
      objective: an `Objective`.
      params: its parameters.
      batch: (x, target).
      key: a key for noise.

    Returns:
      The loss, and dx with the tree, shapes and dtypes of x, None for integers.

    Raises:
      TypeError: the objective has no method `input_grad`.
    """
    if not hasattr(objective, "input_grad"):
        raise TypeError(f"input_grad: expected an Objective, got {described(objective)}")
    return objective.input_grad(params, batch, key)
