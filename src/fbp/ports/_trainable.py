"""The mask of a model's trainable parameters."""

import dataclasses

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp.combinators import map_layers
from fbp.ports._freeze import Freeze
from fbp.ports._lora import LoRA


def trainable(model: Layer) -> PyTree:
    """Returns a tree like the model's params: True for trained parameters, False for frozen ones.

    With it, an optimizer keeps no state for frozen parameters and does not decay them:

        optax.masked(optax.adamw(1e-4), fbp.trainable(model))

    `optax.masked` returns the gradients of masked parameters as their updates; those of parameters
    frozen by `Freeze` and `LoRA` are 0.
    """
    marked = map_layers(lambda layer: _Marks(layer) if _is_port(layer) else layer, model)
    shapes = jax.eval_shape(marked.init, jax.random.key(0))
    return jax.tree.map(lambda a: a.dtype != bool, shapes)


def _is_port(layer: Layer) -> bool:
    return isinstance(layer, Freeze | LoRA)


@dataclasses.dataclass(frozen=True)
class _Marks(Layer):
    """Has bools in place of frozen params; the `init` of combinators puts them into the tree."""

    port: Layer

    def init(self, key: Array) -> Params:
        params = self.port.init(key)
        if isinstance(self.port, LoRA):
            return {**params, "dense": _bools(params["dense"])}
        return _bools(params)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError


def _bools(params: Params) -> Params:
    return jax.tree.map(lambda a: jnp.zeros(a.shape, bool), params)
