"""Tied parameters: one array, or one layer's, used in two places."""

import dataclasses
from typing import Any

import jax

from fbp._gradients import add
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._require import require_layer
from fbp._tree import path_of


@dataclasses.dataclass(frozen=True)
class Tie(Layer):
    """Uses one array, or one subtree, for two parameters of a layer.

        f(params) = layer(params with the array at source also at target)
        d[source] = d[source] of the layer + d[target] of the layer

    The array fans out to two places, so its gradient is the sum of both gradients. params has the
    array at `source` and None at `target`.

    Args:
      layer: any layer with named params, such as `Serial(embed=..., unembed=...)`.
      source: path of what is kept: of an array, such as "embed.w", or of a subtree, "encoder".
      target: path of what it replaces, such as "unembed.w" or "decoder".

    Raises:
      ValueError: a path is not in the layer's params, or one is inside the other; the two differ in
        shape or dtype.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017.
    """

    layer: Layer
    source: str
    target: str

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if _suffix(self.source, self.target) or _suffix(self.target, self.source):
            raise ValueError(
                f"{name_of(self)}: expected two places, got {self.source}, inside {self.target}"
            )
        if self.source == self.target:
            raise ValueError(f"{name_of(self)}: expected two places, got {self.source} twice")

    def init(self, key: Array) -> Params:
        params = self.layer.init(key)
        kept, other = (self._below(params, path) for path in (self.source, self.target))
        if kept.keys() != other.keys():
            raise ValueError(
                f"{name_of(self)}: expected subtrees of one form, got {self.source} with "
                f"{sorted(kept)} and {self.target} with {sorted(other)}"
            )
        for suffix, a in kept.items():
            b = other[suffix]
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise ValueError(
                    f"{name_of(self)}: expected arrays of one shape and dtype, got "
                    f"{self.source}{suffix} {a.dtype}{a.shape} and "
                    f"{self.target}{suffix} {b.dtype}{b.shape}"
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
        return _with(params, self.target, self._below(params, self.source))

    def kept(self, params: Params) -> Params:
        """Returns the layer's params with None at `target`."""
        return _with(params, self.target, None)

    def tied(self, dparams: Params) -> Params:
        """Returns dparams of the tied params: the gradients of both places are summed."""
        source, target = (self._below(dparams, path) for path in (self.source, self.target))
        return _with(self.kept(dparams), self.source, add(source, target))

    def _below(self, params: Params, path: str) -> dict[str, Any]:
        """The leaves at or below a path, by the rest of their paths."""
        named = {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(params)}
        found = {
            suffix: leaf
            for name, leaf in named.items()
            if (suffix := _suffix(name, path)) is not None
        }
        if not found:
            raise ValueError(f"{name_of(self)}: expected params with {path}, got {sorted(named)}")
        return found


def _with(tree: PyTree, path: str, values: dict[str, Any] | None) -> PyTree:
    """Returns the tree with the leaves at or below a path replaced, by None without values."""

    def put(keys: tuple[Any, ...], leaf: Any) -> Any:
        suffix = _suffix(_path(keys), path)
        if suffix is None:
            return leaf
        return None if values is None else values.get(suffix)

    return jax.tree.map_with_path(put, tree, is_leaf=lambda leaf: leaf is None)


def _suffix(name: str, path: str) -> str | None:
    """The rest of a path that is `path` or below it; None for any other."""
    rest = name.removeprefix(path)
    return rest if name.startswith(path) and (not rest or rest[0] == ".") else None


def _path(keys: tuple[Any, ...]) -> str:
    # Layers that only pass params on contribute keys without a name.
    return ".".join(filter(None, path_of(keys).split(".")))
