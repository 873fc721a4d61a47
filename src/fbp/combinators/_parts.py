"""Layers on the parts of a tree: one for each, one on one alone, one picked."""

import copy
import dataclasses
from typing import Any

from fbp._described import described
from fbp._gradients import passed, zero_gradient
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of, split
from fbp._require import require_layer
from fbp.combinators._group import Group


@dataclasses.dataclass(frozen=True, init=False)
class Each(Group):
    """Applies a layer to each part of x: y_i = f_i(x_i).

        dx_i = (df_i/dx_i)^T dy_i              no part is read twice: nothing to sum

    Args:
      *layers, **named: the layers, one for each part. x, y and params are tuples, or with names
        dicts with those names.

    Raises:
      TypeError: something is not a Layer, or only some have names.
      ValueError: no layers; x, params or dy have other parts than this Each.
    """

    def __init__(self, /, *layers: Any, **named: Any):
        super().__init__(*layers, **named)
        if not self.layers:
            raise ValueError("Each: expected at least one layer, got none")

    @property
    def cheap(self) -> bool:
        return all(layer.cheap for layer in self.layers)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        parts = self.unpack(params), self.unpack(x, "x"), split(key, len(self.layers))
        outputs = [
            layer.forward(p, x, k) for layer, p, x, k in zip(self.layers, *parts, strict=True)
        ]
        ys, res = zip(*outputs, strict=True)
        return self.pack(ys), self.pack(res)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        trees = {"params": params, "x": x, "res": res, "dy": dy}
        parts = [self.unpack(tree, what) for what, tree in trees.items()]
        gradients = [
            layer.backward(*part) for layer, *part in zip(self.layers, *parts, strict=True)
        ]
        dparams, dxs = zip(*gradients, strict=True)
        return self.pack(dparams), self.pack(dxs)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        parts = self.unpack(params), self.unpack(x, "x"), self.unpack(res, "res")
        return self.pack(
            [layer.recompute(p, x, r) for layer, p, x, r in zip(self.layers, *parts, strict=True)]
        )

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        parts = self.unpack(params), self.unpack(x, "x")
        return self.pack(
            [layer.start(p, x, length) for layer, p, x in zip(self.layers, *parts, strict=True)]
        )

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        parts = self.unpack(params), self.unpack(x, "x"), self.unpack(state, "state")
        outputs = [layer.steps(p, x, s) for layer, p, x, s in zip(self.layers, *parts, strict=True)]
        ys, states = zip(*outputs, strict=True)
        return self.pack(ys), self.pack(states)


@dataclasses.dataclass(frozen=True)
class On(Layer):
    """Applies a layer to one part of x; the others pass: y = x with f(x_part) at `part`.

        dx_part  = (df/dx_part)^T dy_part
        dx_other = dy_other                    None for integers

    Args:
      part: its name in a dict, or its index in a tuple.
      layer: f.

    Raises:
      ValueError: x has no such part.
    """

    part: str | int
    layer: Layer

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        y, res = self.layer.forward(params, part_of(self, x, self.part), key)
        return replaced(x, self.part, y), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        part, dpart = (part_of(self, tree, self.part) for tree in (x, dy))
        dparams, dpart = self.layer.backward(params, part, res, dpart)
        others = (replaced(tree, self.part, ()) for tree in (dy, x))
        return dparams, replaced(passed(*others), self.part, dpart)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        y = self.layer.recompute(params, part_of(self, x, self.part), res)
        return replaced(x, self.part, y)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params, part_of(self, x, self.part), length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        y, state = self.layer.steps(params, part_of(self, x, self.part), state)
        return replaced(x, self.part, y), state


@dataclasses.dataclass(frozen=True)
class Pick(Layer):
    """One part of a tree: y = x_part.

        dx_part = dy,   dx_other = 0           None for integers

    Args:
      part: its name in a dict, or its index in a tuple.

    Raises:
      ValueError: x has no such part.
    """

    part: str | int
    cheap = True

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return part_of(self, x, self.part), ()

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        part = part_of(self, x, self.part)
        return (), replaced(zero_gradient(x), self.part, passed(dy, part))


def part_of(owner: Layer, x: PyTree, part: str | int) -> PyTree:
    """One part of a dict or a tuple; raises ValueError where there is none."""
    there = isinstance(x, dict) and part in x
    if isinstance(part, int) and isinstance(x, tuple | list):
        there = -len(x) <= part < len(x)
    if not there:
        raise ValueError(f"{name_of(owner)}: expected x with a part {part!r}, got {described(x)}")
    return x[part]


def replaced(x: PyTree, part: str | int, value: PyTree) -> PyTree:
    """The same dict or tuple with another value for one part."""
    if isinstance(x, dict):
        new = copy.copy(x)  # of the same kind of dict
        new[part] = value
        return new
    assert isinstance(part, int)
    items = [*x]
    items[part] = value
    return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
