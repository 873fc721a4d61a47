"""Fan-out: one input, several layers."""

import dataclasses
from typing import Any

from fbp._gradients import add
from fbp._layer import Key, Params, PyTree, split
from fbp.combinators._group import Group


@dataclasses.dataclass(frozen=True, init=False)
class Parallel(Group):
    """Applies several layers to the same x: y = (f_1(x), ..., f_n(x)).

        dx = sum_i (df_i/dx)^T dy_i            x is read n times: its gradients add up

    y is a tuple, or with names a dict.

    Args:
      *layers, **named: the layers. With names, params and y are dicts with those names.

    Raises:
      TypeError: something is not a Layer, or only some have names.
      ValueError: no layers; params or dy have another form than this Parallel's.
    """

    def __init__(self, /, *layers: Any, **named: Any):
        super().__init__(*layers, **named)
        if not self.layers:
            raise ValueError("Parallel: expected at least one layer, got none")

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
        return self.pack(ys), self.pack(res)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        parts = self.unpack(params), self.unpack(res, "res"), self.unpack(dy, "dy")
        gradients = [
            layer.backward(p, x, r, d) for layer, p, r, d in zip(self.layers, *parts, strict=True)
        ]
        dparams, dxs = zip(*gradients, strict=True)
        return self.pack(dparams), add(*dxs)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        parts = self.unpack(params), self.unpack(res, "res")
        return self.pack(
            [layer.recompute(p, x, r) for layer, p, r in zip(self.layers, *parts, strict=True)]
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
        return self.pack(ys), self.pack(states)
