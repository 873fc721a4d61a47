"""Products that feed several parts, as queries, keys and values, with their columns by device.

Where the columns of one product lie over devices side by side, the first device has queries, and
the last one values: each part has to move before it can be used. Here the columns are put in
groups, one a device, each with its own of every part: then nothing moves between this product and
the next.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._require import require_layer
from fbp.combinators import Serial, map_layers
from fbp.layers import Dense, SplitHeads, SwiGLU


@dataclasses.dataclass(frozen=True)
class Columns(Layer):
    """A `Dense` whose outputs are in groups: those of each part, cut in n, are dealt out to them.

        y[..., g]  =  (x w_1 + b_1)[..., g of n], (x w_2 + b_2)[..., g of n], ...

    Its params are those of the Dense, in their own order.

    Args:
      layer: the Dense.
      parts: the numbers of its outputs that belong together, in order.
      n: the number of groups.
      mesh, axis: the devices that the groups lie over, and their axis.
    """

    layer: Dense
    parts: tuple[int, ...]
    n: int
    mesh: Mesh
    axis: str

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(self._dealt(params), x, key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self._dealt(params), x, res, dy)
        return jax.tree.map(self._back, dparams), dx

    def _dealt(self, params: Params) -> Params:
        return jax.tree.map(self._deal, params)

    def _deal(self, a: Array) -> Array:
        """The last axis in groups; from whole arrays, each device takes its own."""
        ends = [sum(self.parts[: i + 1]) for i in range(len(self.parts) - 1)]
        parts = jnp.split(self._lies(a, None), ends, -1)
        cut = [p.reshape(*p.shape[:-1], self.n, p.shape[-1] // self.n) for p in parts]
        whole = self._lies(jnp.concatenate(cut, -1).reshape(a.shape), None)
        return self._lies(whole, self.axis)

    def _back(self, a: Array) -> Array:
        """The inverse of `_deal`, of whole arrays too."""
        a = self._lies(self._lies(a, self.axis), None)
        grouped = a.reshape(*a.shape[:-1], self.n, a.shape[-1] // self.n)
        sizes = [p // self.n for p in self.parts]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = jnp.split(grouped, ends, -1)
        return self._lies(jnp.concatenate([p.reshape(*a.shape[:-1], -1) for p in parts], -1), None)

    def _lies(self, a: Array, last: str | None) -> Array:
        spec = PartitionSpec(*(None,) * (a.ndim - 1), last)
        return lax.with_sharding_constraint(a, NamedSharding(self.mesh, spec))


@dataclasses.dataclass(frozen=True)
class InGroups(Layer):
    """A layer of the outputs of `Columns`, on each group by itself: y is as without groups.

    Args:
      layer: of one group.
      n: the number of groups.
      heads: whether y has heads, as that of `SplitHeads`, or numbers alone.
    """

    layer: Layer
    n: int
    heads: bool
    cheap = True

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        y, res = self.layer.forward(params, self._cut(x), key)
        return jax.tree.map(self._merged, y), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(params, self._cut(x), res, jax.tree.map(self._split, dy))
        return dparams, dx.reshape(x.shape)

    def _cut(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.n, x.shape[-1] // self.n)

    def _merged(self, y: Array) -> Array:
        if self.heads:  # (..., n, H / n, K)
            return y.reshape(*y.shape[:-3], math.prod(y.shape[-3:-1]), y.shape[-1])
        return y.reshape(*y.shape[:-2], math.prod(y.shape[-2:]))

    def _split(self, dy: Array) -> Array:
        if self.heads:
            return dy.reshape(*dy.shape[:-2], self.n, dy.shape[-2] // self.n, dy.shape[-1])
        return self._cut(dy)


def with_columns_by_device(model: Layer, mesh: Mesh, axis: str) -> Layer:
    """The model whose products before a `SplitHeads` or a `SwiGLU` have their columns by device,
    where heads and halves divide among the devices of an axis."""
    n = mesh.shape.get(axis, 1)
    if n == 1:
        return model

    def one(layer: Layer) -> Layer:
        if type(layer) is not Serial:  # another's forward may be its own
            return layer
        layers = list(layer.layers)
        for i, (first, then) in enumerate(itertools.pairwise(layer.layers)):
            if pair := _pair(first, then, n, mesh, axis):
                layers[i : i + 2] = pair
        if layers == list(layer.layers):
            return layer
        if layer.names is None:
            return Serial(*layers)
        return Serial(**dict(zip(layer.names, layers, strict=True)))

    return map_layers(one, model)


def _pair(
    first: Layer, then: Layer, n: int, mesh: Mesh, axis: str
) -> tuple[Columns, InGroups] | None:
    if not isinstance(first, Dense):
        return None
    if isinstance(then, SplitHeads) and then.packed:
        kv = then.kv_heads or then.heads
        if then.heads % n or kv % n:
            return None
        size = first.n_out // (then.heads + 2 * kv)
        parts = then.heads * size, kv * size, kv * size
        inner: Layer = SplitHeads(then.heads // n, None if then.kv_heads is None else kv // n)
        return Columns(first, parts, n, mesh, axis), InGroups(inner, n, heads=True)
    if isinstance(then, SwiGLU):
        half = first.n_out // 2
        if half % n:
            return None
        return Columns(first, (half, half), n, mesh, axis), InGroups(then, n, heads=False)
    return None
