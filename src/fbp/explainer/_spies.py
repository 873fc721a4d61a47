"""A model whose every layer notes what flows through it, forward and backward."""

import copy
import dataclasses
from typing import Any

import jax

from fbp._cell import Cell
from fbp._layer import Array, Key, Layer, Loss, Params, PyTree
from fbp._turn import value_and_grad_of
from fbp.combinators import Recurrent
from fbp.explainer._inside import layers_inside, with_layers
from fbp.explainer._notes import note, plain
from fbp.layers import Unembed
from fbp.models import NextToken
from fbp.ports import Tie

FORWARD, RECOMPUTE, BACKWARD, LOSS = "forward", "recompute", "backward", "loss"
# Of a cell, at one step of its sequence.
STEP, STEP_BACK = "step", "step back"


@dataclasses.dataclass
class Call:
    """One call of a layer's rule in the program, which a loop runs many times.

    Attributes:
      layer: number of the layer.
      kind: which rule.
      noted: the trees that it notes, by name, as trees of leaves' numbers.
      shapes: of those leaves, as the rule sees them.
    """

    layer: int
    kind: str
    noted: dict[str, PyTree] = dataclasses.field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = dataclasses.field(default_factory=dict)


class Log:
    """The layers of a model, and the calls of their rules in the order of the program.

    Attributes:
      closed: paths and depths of layers that are not looked into.
    """

    def __init__(self, closed: frozenset[tuple[str, int]] = frozenset()) -> None:
        self.closed = closed
        self.clear()

    def clear(self) -> None:
        self.layers: list[Layer] = []
        self.paths: list[str] = []
        self.depths: list[int] = []
        self.inside: list[bool] = []
        self.calls: list[Call] = []
        self.turned = False

    def around(self, number: int) -> tuple[str, int]:
        """The path and depth of the layer that a layer is in."""
        depth = self.depths[number] - 1
        at = max(i for i in range(number) if self.depths[i] == depth)
        return self.paths[at], depth

    def call(self, layer: int, kind: str) -> "_Noting":
        self.calls.append(Call(layer, kind))
        return _Noting(len(self.calls) - 1, self.calls[-1])


class _Noting:
    def __init__(self, number: int, call: Call):
        self._number, self._call = number, call

    def note(self, what: str, tree: PyTree) -> PyTree:
        leaves, form = jax.tree.flatten(tree)
        self._call.noted[what] = jax.tree.unflatten(form, list(range(len(leaves))))
        self._call.shapes[what] = [plain(a).shape for a in leaves]
        return note(f"{self._number}.{what}", tree)


@dataclasses.dataclass(frozen=True)
class Spy(Layer):
    """A layer that notes params, x, y, res, dy, dparams and dx."""

    layer: Layer
    number: int
    log: Log

    def __getattr__(self, name: str) -> Any:
        # What combinators ask of a layer beside the contract, such as the n of a Stack.
        return getattr(object.__getattribute__(self, "layer"), name)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    @property
    def draws(self) -> bool:
        return self.layer.draws

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        noting = self.log.call(self.number, RECOMPUTE if self.log.turned else FORWARD)
        x = noting.note("x", x)
        if key is not None:
            noting.note("key", key)
        y, res = self.layer.forward(params, x, key)
        return noting.note("y", y), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        noting = self.log.call(self.number, BACKWARD)
        params, x, res, dy = (
            noting.note(what, tree)
            for what, tree in (("params", params), ("x", x), ("res", res), ("dy", dy))
        )
        dparams, dx = self.layer.backward(params, x, res, dy)
        return noting.note("dparams", dparams), noting.note("dx", dx)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        noting = self.log.call(self.number, RECOMPUTE)
        return noting.note("y", self.layer.recompute(params, x, res))


@dataclasses.dataclass(frozen=True)
class _CellSpy(Cell):
    """The cell of a `Recurrent`, which notes each step."""

    cell: Cell
    number: int
    log: Log

    def init(self, key: Array) -> Params:
        return self.cell.init(key)

    def initial(self, params: Params, x_t: Any) -> PyTree:
        return self.cell.initial(params, x_t)

    def project(self, params: Params, x: Array) -> PyTree:
        return self.cell.project(params, x)

    def forward_step(
        self, params: Params, z: PyTree, state: PyTree
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        noting = self.log.call(self.number, RECOMPUTE if self.log.turned else STEP)
        z, state = noting.note("z", z), noting.note("state", state)
        y, res = self.cell.forward_step(params, z, state)
        return noting.note("y", y), noting.note("res", res)

    def backward_step(
        self, params: Params, state: PyTree, res: PyTree, dy: tuple[Array, PyTree]
    ) -> tuple[PyTree, PyTree]:
        noting = self.log.call(self.number, STEP_BACK)
        da, dstate = self.cell.backward_step(params, state, res, noting.note("dy", dy))
        return noting.note("da", da), noting.note("dstate", dstate)

    def gather(self, params: Params, x: Array, state: PyTree, da: PyTree) -> tuple[Params, Array]:
        return self.cell.gather(params, x, state, da)


@dataclasses.dataclass(frozen=True)
class LossSpy(Loss):
    """A loss that notes y, the target, the value, dy and dparams."""

    loss: Loss
    log: Log

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "loss"), name)

    @property
    def draws(self) -> bool:
        return self.loss.draws

    def init(self, key: Array) -> Params:
        return self.loss.init(key)

    def value_and_grad(
        self, params: Params, y: PyTree, target: PyTree, *, key: Key = None, scale: Any = None
    ) -> tuple[Array, Params, PyTree]:
        noting = self.log.call(-1, LOSS)
        given = [("params", params), ("y", y), ("target", target)]
        params, y, target = (noting.note(what, tree) for what, tree in given)
        if key is not None:
            noting.note("key", key)
        value, dparams, dy = value_and_grad_of(self.loss, params, y, target, key, scale)
        self.log.turned = True
        value = noting.note("value", value)
        return value, noting.note("dparams", dparams), noting.note("dy", dy)

    def weight(self, target: PyTree) -> Array:
        return self.loss.weight(target)


def spied(objective: Any, log: Log) -> Any:
    """The objective with spies around its loss and every layer of its model."""
    made = copy.copy(objective)
    model = _around(objective.model, "", 0, log)
    if isinstance(objective, NextToken):
        # It takes the model apart, and computes the last layer within its loss.
        model = _bare(model)
    object.__setattr__(made, "model", model)
    object.__setattr__(made, "loss", LossSpy(objective.loss, log))
    return made


def _around(layer: Layer, path: str, depth: int, log: Log) -> Layer:
    number = len(log.layers)
    fields = {} if (path, depth) in log.closed else layers_inside(layer)
    log.layers.append(layer)
    log.paths.append(path)
    log.depths.append(depth)
    log.inside.append(bool(fields))
    spies = {
        field: [
            _around(child, f"{path}.{name}".strip("."), depth + 1, log) for name, child in named
        ]
        for field, named in fields.items()
    }
    inside = with_layers(layer, spies)
    if isinstance(layer, Recurrent):
        object.__setattr__(inside, "cell", _CellSpy(layer.cell, number, log))
    return Spy(inside, number, log)


def _bare(model: Any) -> Any:
    """A model without the spies around itself, around what a Tie holds, and around its Unembed."""
    inside = model.layer
    if isinstance(inside, Tie):
        return with_layers(inside, {"layer": [_bare(inside.layer)]})
    *trunk, last = inside.layers
    while isinstance(last, Spy):
        last = last.layer
    if not isinstance(last, Unembed):  # a port around it, which must have it inside
        last = with_layers(last, {"layer": [last.layer.layer]})
    return with_layers(inside, {"layers": [*trunk, last]})
