"""Trees like the params, for optimizers: which are trained, and how many axes they have."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._objective import Objective, ObjectiveParams
from fbp.combinators import Stack, map_layers
from fbp.ports._freeze import Freeze
from fbp.ports._lora import LoRA


def trainable(model: Any) -> PyTree:
    """Returns a tree like the params: True for trained parameters, False for frozen ones.

    With it, an optimizer keeps no state for frozen parameters and does not decay them:

        optimizer = optax.masked(optax.adamw(1e-4), fbp.trainable(objective))
        state = fbp.state_of(objective.init(key), optimizer)

    `optax.masked` returns the gradients of masked parameters as their updates; those of parameters
    frozen by `Freeze` and `LoRA` are 0.

    Args:
      model: a Layer; or an objective, for a tree like the objective's params.
    """

    def of_layer(layer: Layer) -> PyTree:
        marked = map_layers(lambda held: _Marks(held) if _is_port(held) else held, layer)
        shapes = jax.eval_shape(marked.init, jax.random.key(0))
        return jax.tree.map(lambda a: a.dtype != bool, shapes)

    return _of(model, of_layer, lambda a: True)


def axes(model: Any) -> PyTree:
    """Returns a tree like the params: the number of axes of each, without a Stack's axis of copies.

    For optimizers that go by axes, to which the biases of a `Stack` look like matrices:

        matrices = jax.tree.map(lambda n: n >= 2, fbp.axes(objective))
        optax.adamw(1e-3, mask=matrices)                    decays matrices alone

    Muon is told which axes are those of the matrix, so that axes before them are copies:

        of_matrix = optax.contrib.MuonDimensionNumbers(-2, -1)
        labels = jax.tree.map(lambda n: of_matrix if n == 2 else None, fbp.axes(objective))
        optax.contrib.muon(1e-3, muon_weight_dimension_numbers=labels)

    Args:
      model: a Layer; or an objective, for a tree like the objective's params.
    """

    def of_layer(layer: Layer) -> PyTree:
        one = map_layers(lambda held: held.layer if isinstance(held, Stack) else held, layer)
        return jax.tree.map(lambda a: a.ndim, jax.eval_shape(one.init, jax.random.key(0)))

    return _of(model, of_layer, lambda a: a.ndim)


def _of(model: Any, of_layer: Callable[[Layer], PyTree], of_loss: Callable[[Any], Any]) -> PyTree:
    """A tree like the params of a layer or of an objective."""
    model = getattr(model, "objective", model)  # that of a Microbatch
    if isinstance(model, Layer):
        return of_layer(model)
    if isinstance(model, Objective):
        loss = jax.eval_shape(model.loss.init, jax.random.key(0))
        return ObjectiveParams(of_layer(model.model), jax.tree.map(of_loss, loss))
    if isinstance(getattr(model, "model", None), Layer):
        return of_layer(model.model)  # a NextToken, whose params are its model's
    raise TypeError(f"expected a Layer or an objective with a model, got {described(model)}")


def _is_port(layer: Layer) -> bool:
    return isinstance(layer, Freeze | LoRA)


@dataclasses.dataclass(frozen=True)
class _Marks(Layer):
    """Has bools in place of frozen params; the `init` of combinators puts them into the tree."""

    port: Layer

    def init(self, key: Array) -> Params:
        params = self.port.init(key)
        if isinstance(self.port, LoRA):
            return {**params, "dense": jax.tree.map(_bools, params["dense"])}
        assert isinstance(self.port, Freeze)
        return self.port.map_frozen(_bools, params)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError


def _bools(a: Array) -> Array:
    return jnp.zeros(a.shape, bool)
