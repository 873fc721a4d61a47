"""The layers inside a layer, and the same layer with others in their place."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fbp._cell import Cell
from fbp._layer import Layer
from fbp.combinators import Group
from fbp.ports import LoRA


def layers_inside(layer: Layer) -> dict[str, list[tuple[str, Layer]]]:
    """The fields of a layer that hold layers, each layer with its part of the params' path."""
    fields: dict[str, list[tuple[str, Layer]]] = {}
    if not dataclasses.is_dataclass(layer):
        return fields
    for field in dataclasses.fields(layer):
        held = getattr(layer, field.name)
        if isinstance(held, Cell) or isinstance(layer, LoRA):
            # `Recurrent` and `LoRA` use attributes of their layer that a probe does not have.
            continue
        if isinstance(held, Layer):
            # A wrapper holds its layer in a field `layer`, and its params are the layer's.
            fields[field.name] = [("" if field.name == "layer" else field.name, held)]
        elif isinstance(held, dict) and held and all(isinstance(x, Layer) for x in held.values()):
            fields[field.name] = [(str(name), x) for name, x in held.items()]
        elif isinstance(held, tuple | list) and held and all(isinstance(x, Layer) for x in held):
            names = layer.names if isinstance(layer, Group) and layer.names else range(len(held))
            fields[field.name] = [(str(n), x) for n, x in zip(names, held, strict=True)]
    return fields


def with_layers(layer: Layer, new: Mapping[str, Sequence[Layer]]) -> Layer:
    """A copy of a layer with other layers in the fields that `layers_inside` gives."""
    inside = copy.copy(layer)
    for field, layers in new.items():
        held = getattr(layer, field)
        value: Any = tuple(layers)
        if isinstance(held, Layer):
            value = layers[0]
        elif isinstance(held, dict):
            value = dict(zip(held, layers, strict=True))
        object.__setattr__(inside, field, value)
    return inside
