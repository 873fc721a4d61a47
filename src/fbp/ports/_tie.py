"""Tied parameters: one array used in two places."""

import dataclasses
from typing import Any

import jax

from fbp._layer import Array, Key, Layer, Params, PyTree, add, name_of, require_layer
from fbp._tree import path_of


@dataclasses.dataclass(frozen=True)
class Tie(Layer):
    """Uses one array for two parameters of a layer.

        f(params) = layer(params with the array at source also at target)
        d[source] = d[source] of the layer + d[target] of the layer

    The array fans out to two places, so its gradient is the sum of both gradients. params has the
    array at `source` and None at `target`.

    Args:
      layer: any layer with named params, such as `Serial(embed=..., unembed=...)`.
      source: path of the array that is kept, such as "embed.w".
      target: path of the array that it replaces, such as "unembed.w".

    Raises:
      ValueError: a path is not in the layer's params; the two arrays differ in shape or dtype.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017.
    """

    layer: Layer
    source: str
    target: str

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if self.source == self.target:
            raise ValueError(f"{name_of(self)}: expected two places, got {self.source} twice")

    def init(self, key: Array) -> Params:
        params = self.layer.init(key)
        kept, other = (self._get(params, path) for path in (self.source, self.target))
        if (kept.shape, kept.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"{name_of(self)}: expected arrays of one shape and dtype, got {self.source} "
                f"{kept.dtype}{kept.shape} and {self.target} {other.dtype}{other.shape}"
            )
        return self.kept(params)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(self.untied(params), x, key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self.untied(params), x, res, dy)
        return self.tied(dparams), dx

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(self.untied(params), x, res)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(self.untied(params), x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(self.untied(params), x, state)

    def untied(self, params: Params) -> Params:
        """Returns the layer's own params, with the array in both places."""
        return _with(params, self.target, self._get(params, self.source))

    def kept(self, params: Params) -> Params:
        """Returns the layer's params with None at `target`."""
        return _with(params, self.target, None)

    def tied(self, dparams: Params) -> Params:
        """Returns dparams of the tied params: the gradients of both places are summed."""
        source, target = (self._get(dparams, path) for path in (self.source, self.target))
        return _with(self.kept(dparams), self.source, add(source, target))

    def _get(self, params: Params, path: str) -> Any:
        named = {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(params)}
        if path not in named:
            raise ValueError(f"{name_of(self)}: expected params with {path}, got {sorted(named)}")
        return named[path]


def _with(tree: PyTree, path: str, value: Any) -> PyTree:
    """Returns the tree with the leaf at a path replaced by `value`, which may be None."""

    def put(keys: tuple[Any, ...], leaf: Any) -> Any:
        return value if _path(keys) == path else leaf

    return jax.tree.map_with_path(put, tree, is_leaf=lambda leaf: leaf is None)


def _path(keys: tuple[Any, ...]) -> str:
    # Layers that only pass params on contribute keys without a name.
    return ".".join(filter(None, path_of(keys).split(".")))
