"""Where in a step a number first is not finite: the step once more, layer by layer."""

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Key, Layer, Params, PyTree, name_of
from fbp._objective import Objective
from fbp.explainer._inside import layers_inside, with_layers
from fbp.layers import Unembed
from fbp.ports import Tie
from fbp.verify.registry._named import is_said_by_fbp


def first_fault(objective: Any, params: Params, batch: PyTree, key: Key) -> str:
    """Says what first is not finite in a step: the batch, a layer forward or backward, or the loss.

    Every operation runs by itself, so this takes a while. Returns "" where it cannot be told.
    """
    bad = [i for i, a in enumerate(jax.tree.leaves(batch)) if not _finite(a)]
    if bad:
        return f"{'the input' if bad[0] == 0 else 'the target'} of the batch is not finite"
    spied = getattr(objective, "objective", objective)  # that of a Microbatch, taken whole
    faults: list[str] = []
    try:
        spied = copy.copy(spied)
        model = _spied(spied.model, "", faults)
        if not isinstance(spied, Objective):
            # That of a language model takes the model itself apart, and its last layer.
            model = _bare(model)
        object.__setattr__(spied, "model", model)
        with jax.disable_jit():
            value, dparams = spied.value_and_grad(params, batch, key)
    except Exception as error:
        if not faults and is_said_by_fbp(error) and isinstance(error, ValueError):
            # What compiled is a NaN, such as a label of no class, is said where it is not.
            return str(error).splitlines()[0]
        # A model that can only be compiled, or whose layers need one another's attributes.
        return faults[0] if faults else ""
    if not faults and not _finite(value):
        return f"forward of the loss, {name_of(getattr(spied, 'loss', objective))}"
    if not faults and not _finite(dparams):
        return f"backward of the loss, {name_of(getattr(spied, 'loss', objective))}"
    return faults[0] if faults else ""


def is_of_data(fault: str) -> bool:
    """Whether what `first_fault` says is of the batch, and of no layer."""
    return fault.endswith(" of the batch is not finite") or ": expected " in fault


def bad_rows(batch: PyTree) -> list[int]:
    """The places in a batch whose numbers are not finite."""
    found: set[int] = set()
    for a in jax.tree.leaves(batch):
        if np.ndim(a) and np.issubdtype(np.asarray(a).dtype, np.inexact):
            good = np.isfinite(np.asarray(a)).reshape(len(a), -1).all(1)
            found |= set(np.flatnonzero(~good).tolist())
    return sorted(found)


@dataclasses.dataclass(frozen=True)
class _Spy(Layer):
    """A layer that notes what of it is not finite."""

    layer: Layer
    path: str
    faults: list[str]

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    @property
    def draws(self) -> bool:
        return self.layer.draws

    def init(self, key: jax.Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        self._note("what comes into", x, params)
        y, res = self.layer.forward(params, x, key)
        self._note("forward of", y)
        return y, res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        self._note("the gradient that comes back into", dy)
        dparams, dx = self.layer.backward(params, x, res, dy)
        self._note("backward of", (dparams, dx))
        return dparams, dx

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(params, x, res)

    def _note(self, what: str, *trees: PyTree) -> None:
        if not self.faults and not _finite(trees):
            self.faults.append(f"{what} {self.path}, {name_of(self.layer)}")


def _spied(layer: Layer, path: str, faults: list[str]) -> Layer:
    """The model with a spy around every layer inside it."""
    spies = {
        field: [_spied(child, f"{path}.{name}".strip("."), faults) for name, child in named]
        for field, named in layers_inside(layer).items()
    }
    inside = with_layers(layer, spies)
    return inside if isinstance(layer, Unembed) else _Spy(inside, path or "the model", faults)


def _bare(model: Layer) -> Layer:
    """A spied model without the spies around itself, and around what a Tie holds."""
    if isinstance(model, _Spy):
        return _bare(model.layer)
    if isinstance(model, Tie):
        object.__setattr__(model, "layer", _bare(model.layer))  # a copy already
    return model


def _finite(tree: PyTree) -> bool:
    return all(
        bool(jnp.isfinite(a).all())
        for a in jax.tree.leaves(tree)
        if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)
    )
