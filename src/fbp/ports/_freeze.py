"""Parameters that are not trained: of a layer, or at some paths."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from fbp._gradients import zero_gradient
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._require import require_layer
from fbp._tree import matches, named_leaves, path_of
from fbp.combinators import Group, On, Remat, Repeat, Residual, Stack
from fbp.combinators._map import map_held, map_named
from fbp.ports._cast import Cast
from fbp.ports._tie import Tie

# Layers whose params are those of the layer that they hold.
_PASS_ON = (Cast, On, Remat, Repeat, Residual, Stack, Tie)


@dataclasses.dataclass(frozen=True)
class Freeze(Layer):
    """A layer whose parameters are not trained: dparams = 0, dx as in the layer.

    The layer's own dparams are not used, so a compiled program does not compute them: the backward
    of a frozen `Dense` is only dy @ w^T. See `trainable` for an optimizer that keeps no state for
    frozen parameters, and `freeze` for those at some paths of a model.

    Args:
      layer: the layer to freeze.
      only: paths of the parameters that are frozen, as for `freeze`; without any, all of them.

    Raises:
      ValueError: when it runs, if a path of `only` is not in the params.
    """

    layer: Layer
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if isinstance(self.only, str):
            raise TypeError(f"Freeze: expected only=({self.only!r},), a tuple of paths, got a str")

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(self._held(params), x, key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self._held(params), x, res, dy)
        return self.map_frozen(zero_gradient, dparams if self.only else params), dx

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(self._held(params), x, res)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params, x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(params, x, state)

    def map_frozen(self, f: Any, params: Params) -> Params:
        """Returns the tree with f applied to what is frozen."""

        def one(keys: tuple[Any, ...], leaf: Any) -> Any:
            frozen = not self.only or any(matches(path_of(keys), path) for path in self.only)
            return f(leaf) if frozen else leaf

        return jax.tree.map_with_path(one, params)

    def _held(self, params: Params) -> Params:
        _require_paths("Freeze", self.only, list(named_leaves(params)))
        return self.map_frozen(jax.lax.stop_gradient, params)


def freeze(model: Layer, *patterns: str) -> Layer:
    """Returns the model with a `Freeze` around the layers whose params are at these paths.

        fbp.freeze(model, "trunk.*")

    Params and their tree stay the same. Where only some params of a layer are meant, as in
    `"*.b"`, its `Freeze` names them.

    Args:
      model: a Layer.
      *patterns: paths of parameters, such as `trunk.dense.w`, with `*` for any text; the path of a
        layer means all of its parameters.

    Raises:
      ValueError: a pattern is at no path.
    """
    paths = _paths(model)
    _require_paths("freeze", patterns, paths)
    frozen = {path for path in paths for pattern in patterns if matches(path, pattern)}
    return _freeze(model, frozen)


def _require_paths(owner: str, patterns: Sequence[str], paths: list[str]) -> None:
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(
                f"{owner}: expected parameters at {pattern!r}, got {', '.join(paths) or 'none'}"
            )


def _freeze(layer: Layer, frozen: set[str]) -> Layer:
    if not frozen:
        return layer
    if isinstance(layer, Tie):
        # The array at the target is that at the source.
        tied = {
            f"{layer.target}{p.removeprefix(layer.source)}"
            for p in frozen
            if p == layer.source or p.startswith(layer.source + ".")
        }
        return map_held(lambda held: _freeze(held, frozen | tied), layer)
    if frozen >= set(_paths(layer)):
        return Freeze(layer)
    if isinstance(layer, Group):

        def part(name: str, held: Layer) -> Layer:
            prefix = f"{name}."
            return _freeze(held, {p.removeprefix(prefix) for p in frozen if p.startswith(prefix)})

        return map_named(part, layer)
    if isinstance(layer, _PASS_ON):
        return map_held(lambda held: _freeze(held, frozen), layer)
    return Freeze(layer, tuple(sorted(frozen)))


def _paths(layer: Layer) -> list[str]:
    return list(named_leaves(jax.eval_shape(layer.init, jax.random.key(0))))
