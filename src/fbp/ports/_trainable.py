"""Which parameters of a model learn."""

import dataclasses

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp.combinators import map_layers
from fbp.ports._freeze import Freeze
from fbp.ports._lora import LoRA


def trainable(model: Layer) -> PyTree:
    """Returns the tree of the model's params with true where they learn, false where frozen.

    An optimizer keeps no state for what is frozen, and does not decay it, with

        optax.masked(optax.adamw(1e-4), fbp.trainable(model))

    whose updates of the other parameters are their gradients: the zeros of `Freeze` and `LoRA`.
    """
    marked = map_layers(lambda layer: _Marks(layer) if _is_port(layer) else layer, model)
    shapes = jax.eval_shape(marked.init, jax.random.key(0))
    return jax.tree.map(lambda a: a.dtype != bool, shapes)


def _is_port(layer: Layer) -> bool:
    return isinstance(layer, Freeze | LoRA)


@dataclasses.dataclass(frozen=True)
class _Marks(Layer):
    """Starts with bools in the places of what is frozen; combinators put them where they belong."""

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
