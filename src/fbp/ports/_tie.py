"""One array in two places."""

import dataclasses
from typing import Any

from fbp._layer import Array, Key, Layer, Params, PyTree, add, name_of, require_layer


@dataclasses.dataclass(frozen=True)
class Tie(Layer):
    """Uses one parameter of a layer in two places of it.

        f(params) = layer({**params, target: params[source]})
        d[source] = d[source] of the layer + d[target] of the layer

    The two places are a fan-out of one array, so its gradient is the sum of both. Params have
    `source` and no `target`.

    Args:
      layer: any layer with named params, as `Serial(embed=..., unembed=...)`.
      source: the path of the array that is kept, as "embed.w".
      target: the path of the other place, "unembed.w".

    Raises:
      ValueError: a path is not in the layer's params; the two have different shapes or dtypes.

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
        return _without(params, self.target.split("."))

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(self.untied(params), x, key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self.untied(params), x, res, dy)
        return self.tied(dparams), dx

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(self.untied(params), x, res)

    def untied(self, params: Params) -> Params:
        """The layer's own params: the array in both places."""
        return _with(params, self.target.split("."), self._get(params, self.source))

    def tied(self, dparams: Params) -> Params:
        """The gradient of the one array: the sum of both places' gradients."""
        source, target = (self._get(dparams, path) for path in (self.source, self.target))
        rest = _without(dparams, self.target.split("."))
        return _with(rest, self.source.split("."), add(source, target))

    def _get(self, tree: Any, path: str) -> Any:
        for name in path.split("."):
            if not isinstance(tree, dict) or name not in tree:
                got = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
                raise ValueError(f"{name_of(self)}: expected params with {path}, got {got}")
            tree = tree[name]
        return tree


def _with(tree: Any, path: list[str], value: Any) -> Any:
    """The nested dict with another value at a path."""
    name, *rest = path
    return {**tree, name: _with(tree.get(name, {}), rest, value) if rest else value}


def _without(tree: Any, path: list[str]) -> Any:
    """The nested dict less what is at a path, and less a dict that this leaves empty."""
    name, *rest = path
    inner = _without(tree[name], rest) if rest else {}
    others = {key: value for key, value in tree.items() if key != name}
    return {**others, name: inner} if inner else others
