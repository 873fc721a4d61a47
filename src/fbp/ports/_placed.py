"""Placed: a layer, or a loss, on several devices."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._require import require_layer
from fbp._tree import path_of
from fbp._turn import value_and_grad_of


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a layer lie.

    Attributes:
      mesh: the devices.
      batch: the axes of the mesh that the first axis of x and y lies over.
      specs: of each parameter, by its path in the layer, where it lies between steps.
      gathered: the axes of the mesh along which a parameter is gathered where it is used.
      examples: the sizes that a batch, or a part of it, has; other first axes are not of examples.
      grouped: the axes of the mesh over which a `Microbatch` takes groups of devices by themselves:
        the gradients in a group are not added up over these yet.
    """

    mesh: Mesh
    batch: tuple[str, ...]
    specs: tuple[tuple[str, PartitionSpec], ...] = ()
    gathered: tuple[str, ...] = ()
    examples: tuple[int, ...] = ()
    grouped: tuple[str, ...] = ()

    def size(self, names: tuple[str, ...]) -> int:
        """The number of devices along these axes."""
        return math.prod(self.mesh.shape[name] for name in names)

    def used(self, params: Params) -> Params:
        """The parameters as they are used: gathered."""
        return self._put(params, lambda spec: _without(spec, self.gathered))

    def kept(self, dparams: Params) -> Params:
        """The gradients as the parameters lie between steps, scattered."""
        return self._put(dparams, lambda spec: _without(spec, self.grouped))

    def summed(self, dparams: Params) -> Params:
        """The gradients added up, before they are scattered."""
        return self._put(dparams, lambda spec: _without(spec, (*self.gathered, *self.grouped)))

    def spread(self, x: PyTree) -> PyTree:
        """Arrays of a batch, along the first axis where that divides."""
        shards = self.size(self.batch)

        def pin(a: Any) -> Any:
            if not self.batch or not jnp.ndim(a) or a.shape[0] % shards:
                return a
            if a.shape[0] not in self.examples or not jnp.issubdtype(a.dtype, jnp.number):
                return a
            return self._constrained(a, PartitionSpec(self.batch))

        return jax.tree.map(pin, x)

    def _put(self, params: Params, of: Any) -> Params:
        specs = dict(self.specs)

        def put(keys: tuple[Any, ...], a: Array) -> Array:
            spec = specs.get(path_of(keys))
            return a if spec is None else self._constrained(a, of(spec))

        return jax.tree.map_with_path(put, params)

    def _constrained(self, a: Array, spec: PartitionSpec) -> Array:
        return lax.with_sharding_constraint(a, NamedSharding(self.mesh, spec))


def _without(spec: PartitionSpec, names: tuple[str, ...]) -> PartitionSpec:
    """A spec without some axes of the mesh."""

    def one(entry: Any) -> Any:
        if isinstance(entry, tuple):
            return tuple(name for name in entry if name not in names) or None
        return None if entry in names else entry

    return PartitionSpec(*map(one, spec))


@dataclasses.dataclass(frozen=True)
class Placed(Layer):
    """A layer on a mesh: its weights are gathered where they are used, its gradients scattered.

        y, res  = layer(gather(p), x)                          x and y lie over the batch
        dp      = scatter(dp of the layer at gather(p))        summed over the batch
        dx      = dx of the layer

    The numbers are those of the layer. Inside a `Stack` one copy's weights are gathered at a time,
    and again in the backward, so that never more than one copy is whole on a device; a compiler
    that sees the shardings of the parameters alone gathers the batch in their place, and every
    device does the work of all.

    Args:
      layer: the layer.
      place: where its arrays lie.

    Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", SC 2020, arXiv:1910.02054; Xu et al., "GSPMD", 2021, arXiv:2105.04663.
    """

    layer: Layer
    place: Placement

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        place = self.place
        y, res = self.layer.forward(place.used(params), place.spread(x), key)
        return place.spread(y), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        place = self.place
        whole = place.used(params)
        dparams, dx = self.layer.backward(whole, place.spread(x), res, place.spread(dy))
        if dx is None:  # of integers, as of an `Embedding`: else dy would be cut by columns
            dparams = place.summed(dparams)
        return place.kept(dparams), place.spread(dx)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.place.spread(self.layer.recompute(self.place.used(params), x, res))

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(self.place.used(params), x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(self.place.used(params), x, state)


@dataclasses.dataclass(frozen=True)
class PlacedLoss(Loss):
    """A loss with parameters on a mesh, as `Placed` is a layer.

    Args:
      loss: the loss, such as an `UnembedCrossEntropy`.
      place: where its arrays lie.
    """

    loss: Loss
    place: Placement

    def init(self, key: Array) -> Params:
        return self.loss.init(key)

    def value(self, params: Params, y: PyTree, target: PyTree) -> Array:
        place = self.place
        return self.loss.value(place.used(params), place.spread(y), place.spread(target))

    def value_and_grad(
        self, params: Params, y: PyTree, target: PyTree, scale: Any = None
    ) -> tuple[Array, Params, PyTree]:
        place = self.place
        whole, y, target = place.used(params), place.spread(y), place.spread(target)
        value, dparams, dy = value_and_grad_of(self.loss, whole, y, target, scale=scale)
        return value, place.kept(dparams), place.spread(dy)

    def weight(self, target: PyTree) -> Array:
        return self.loss.weight(target)
