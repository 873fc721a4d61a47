"""Composition: one layer after another."""

import dataclasses
from typing import Any

import jax

from fbp._layer import Key, Params, PyTree, split
from fbp.combinators._group import Group


@dataclasses.dataclass(frozen=True, init=False)
class Serial(Group):
    """Composes layers: y = f_n(... f_2(f_1(x))).

        x_1 = f_1(x),  x_2 = f_2(x_1),  ...  y = f_n(x_{n-1})
        dx_{i-1} = (dx_i/dx_{i-1})^T dx_i      from the last layer to the first

    One pass back computes every gradient: the dx of a layer is the dy of the layer before it.

    Keeps the input of every layer but the first, which the caller keeps, except outputs of `cheap`
    layers: the backward recomputes those from the layer's own input. "Keep what was expensive,
    recompute what is cheap."

    Args:
      *layers, **named: the layers, in order. With names, params is a dict with those names.

    Raises:
      TypeError: something is not a Layer, or only some have names.
      ValueError: params have another form than this Serial's.
    """

    @property
    def cheap(self) -> bool:
        return all(layer.cheap for layer in self.layers)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        keys = split(key, len(self.layers))
        kept = []
        keep = False  # the first input is kept by the caller
        for layer, p, k in zip(self.layers, self.unpack(params), keys, strict=True):
            y, res = layer.forward(p, x, k)
            kept.append((x if keep else None, res))
            x, keep = y, not layer.cheap
        return x, self.pack(kept)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        ps, kept = self.unpack(params), self.unpack(res, "res")
        xs = self._inputs(ps, x, kept)
        dparams: list[Any] = [None] * len(ps)
        for i, layer in reversed(list(enumerate(self.layers))):
            dparams[i], dy = layer.backward(ps[i], xs[i], kept[i][1], dy)
        return self.pack(dparams), dy

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        if not self.layers:
            return x
        ps, kept = self.unpack(params), self.unpack(res, "res")
        x_last = self._inputs(ps, x, kept)[-1]
        return self.layers[-1].recompute(ps[-1], x_last, kept[-1][1])

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        states = []
        for layer, p in zip(self.layers, self.unpack(params), strict=True):
            states.append(layer.start(p, x, length))
            x, _ = jax.eval_shape(layer.step, p, x, states[-1])
        return self.pack(states)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        states = []
        parts = self.unpack(params), self.unpack(state, "state")
        for layer, p, s in zip(self.layers, *parts, strict=True):
            x, s = layer.steps(p, x, s)
            states.append(s)
        return x, self.pack(states)

    def _inputs(self, ps: list[Params], x: PyTree, kept: list[Any]) -> list[PyTree]:
        """The input of every layer: the caller's, then those kept, then those computed again."""
        xs = [x]
        for i, layer in enumerate(self.layers[:-1]):
            xs.append(layer.recompute(ps[i], xs[i], kept[i][1]) if layer.cheap else kept[i + 1][0])
        return xs
