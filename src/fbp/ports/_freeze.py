"""Layers whose parameters are not trained."""

import dataclasses

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params, PyTree, require_layer


@dataclasses.dataclass(frozen=True)
class Freeze(Layer):
    """A layer whose parameters are not trained: dparams = 0, dx as in the layer.

    The layer's own dparams are not used, so a compiled program does not compute them: the backward
    of a frozen `Dense` is only dy @ w^T. See `trainable` for an optimizer that keeps no state for
    frozen parameters.

    Args:
      layer: the layer to freeze.
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(jax.lax.stop_gradient(params), x, key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        _, dx = self.layer.backward(jax.lax.stop_gradient(params), x, res, dy)
        return jax.tree.map(jnp.zeros_like, params), dx

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(jax.lax.stop_gradient(params), x, res)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params, x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(params, x, state)
