"""A step of backpropagation as data: its layers, their passes, the loss, and what happened."""

import dataclasses
from typing import Any

from fbp._layer import Layer, Params, PyTree, name_of
from fbp.verify._at_numbers import AtNumbers


@dataclasses.dataclass(frozen=True)
class Pass:
    """What one run of a layer was given and what it gave: trees of NumPy arrays.

    Attributes:
      params, x, key, y: of its forward.
      res, dy, dparams, dx: of its backward.
      proof: its rule beside autodiff, at these numbers.
    """

    params: PyTree = None
    x: PyTree = None
    key: PyTree = None
    y: PyTree = None
    res: PyTree = None
    dy: PyTree = None
    dparams: PyTree = None
    dx: PyTree = None
    proof: AtNumbers | None = None


@dataclasses.dataclass(frozen=True)
class Traced:
    """A layer of a model, and its passes: one, or in a `Stack`, `Repeat` or `Graph` one a copy.

    Attributes:
      path: where its parameters are; "" for the model itself.
      depth: how many layers it is inside.
      layer: the layer.
      is_leaf: whether it has no layers inside.
      rule: its equations, from its docstring.
      passes: in the order of the forward.
      steps: of a `Recurrent`, each step of its cell: z, state, y, res, and dy, da, dstate.
    """

    path: str
    depth: int
    layer: Layer
    is_leaf: bool
    rule: tuple[str, ...]
    passes: tuple[Pass, ...]
    steps: tuple[dict[str, PyTree], ...] = ()


@dataclasses.dataclass(frozen=True)
class TracedLoss:
    """Where forward turns into backward.

    Attributes:
      loss: the loss.
      rule: its equations.
      params, y, target: what it was given.
      value, dparams, dy: what it gave.
      proof: its rule beside autodiff.
    """

    loss: Any
    rule: tuple[str, ...]
    params: PyTree
    y: PyTree
    target: PyTree
    value: Any
    dparams: PyTree
    dy: PyTree
    proof: AtNumbers | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that happens in a step.

    Attributes:
      kind: "forward", "loss", "recompute" or "backward".
      layer: the number of the layer, -1 for the loss.
      run: the number of its pass.
    """

    kind: str
    layer: int
    run: int


@dataclasses.dataclass(frozen=True)
class Update:
    """The end of a step: what the optimizer made of the gradient.

    Attributes:
      change: what each parameter was moved by: new minus old, in float64.
      params: after it.
      value: the loss of the same batch after it.
      foretold: the loss that the gradient foretells, value + sum(gradient * change): right where
        the loss is straight as far as the change goes.
    """

    change: Params
    params: Params
    value: float
    foretold: float


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """A step of backpropagation with all its numbers.

    Attributes:
      objective: what was explained.
      params: its parameters.
      value: the loss.
      grads: the gradient.
      layers: every layer, in the order of `fbp.summary`.
      loss: the loss, with what it was given and gave.
      events: what happened, in order, layers without layers inside alone.
      update: what the optimizer did with it, where one was given.
    """

    objective: Any
    params: Params
    value: float
    grads: Params
    layers: tuple[Traced, ...]
    loss: TracedLoss
    events: tuple[Event, ...]
    update: Update | None = None

    @property
    def wrong(self) -> tuple[str, ...]:
        """The paths of the layers whose own rule is not what autodiff says at these numbers."""
        found = [
            layer.path or name_of(layer.layer)
            for layer in self.layers
            if any(one.proof is not None and not one.proof.ok for one in layer.passes)
        ]
        if self.loss.proof is not None and not self.loss.proof.ok:
            found.append("the loss")
        return tuple(found)
