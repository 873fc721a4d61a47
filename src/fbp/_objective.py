"""A model and its loss: the whole of backpropagation in six lines."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax

from fbp._layer import Array, Key, Layer, Loss, Params, PyTree, require_layer, scaled


class ObjectiveLike(Protocol):
    """What training minimizes: an `Objective`, or anything with the same methods."""

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
        """Returns the loss and its gradient: forward, loss, backward."""
        x, target = batch
        y, res = self.model.forward(params.model, x, key)
        value, dloss, dy = self.loss.value_and_grad(params.loss, y, target)
        dmodel, _ = self.model.backward(params.model, x, res, dy)
        return value, ObjectiveParams(dmodel, dloss)

    # The same in two halves, for callers that choose the backward after seeing the loss.

    def forward(
        self, params: ObjectiveParams, batch: PyTree, key: Key = None
    ) -> tuple[Array, PyTree]:
        """Returns the loss, and the residuals that `backward` needs."""
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
        """Returns how much this batch counts as a part of a larger one: the divisor of the mean."""
        _, target = batch
        return self.loss.weight(target)
