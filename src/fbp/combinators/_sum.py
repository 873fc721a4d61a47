"""Fan-out and fan-in: one input, several layers, one sum."""

import dataclasses
from typing import Any

from fbp._gradients import add, add_floats
from fbp._layer import Key, Params, PyTree, split
from fbp.combinators._group import Group
from fbp.combinators._residual import require_same


@dataclasses.dataclass(frozen=True, init=False)
class Sum(Group):
    """Applies several layers to the same x and adds their outputs: y = f_1(x) + ... + f_n(x).

        dy_i = dy                              every term passes dy on unchanged
        dx   = sum_i (df_i/dx)^T dy            x is read n times: its gradients add up

    `Residual(f)` is the sum of f and of x itself; here the skip may be a layer too. Integers are
    not added: those of y are those of f_1(x).

    Args:
      *layers, **named: the layers. With names, params is a dict with those names.

    Raises:
      TypeError: something is not a Layer, or only some have names.
      ValueError: no layers; they differ in the shape or dtype of their output; params have
        another form than this Sum's.
    """

    def __init__(self, /, *layers: Any, **named: Any):
        super().__init__(*layers, **named)
        if not self.layers:
            raise ValueError("Sum: expected at least one layer, got none")

    @property
    def cheap(self) -> bool:
        return all(layer.cheap for layer in self.layers)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        keys = split(key, len(self.layers))
        outputs = [
            layer.forward(p, x, k)
            for layer, p, k in zip(self.layers, self.unpack(params), keys, strict=True)
        ]
        ys, res = zip(*outputs, strict=True)
        for y in ys[1:]:
            require_same(self, ys[0], y, "its layers to give one shape and dtype")
        return add_floats(*ys), self.pack(res)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        parts = self.unpack(params), self.unpack(res, "res")
        gradients = [
            layer.backward(p, x, r, dy) for layer, p, r in zip(self.layers, *parts, strict=True)
        ]
        dparams, dxs = zip(*gradients, strict=True)
        return self.pack(dparams), add(*dxs)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        parts = self.unpack(params), self.unpack(res, "res")
        return add_floats(
            *(layer.recompute(p, x, r) for layer, p, r in zip(self.layers, *parts, strict=True))
        )

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        ps = self.unpack(params)
        return self.pack(
            [layer.start(p, x, length) for layer, p in zip(self.layers, ps, strict=True)]
        )

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        parts = self.unpack(params), self.unpack(state, "state")
        outputs = [layer.steps(p, x, s) for layer, p, s in zip(self.layers, *parts, strict=True)]
        ys, states = zip(*outputs, strict=True)
        return add_floats(*ys), self.pack(states)
