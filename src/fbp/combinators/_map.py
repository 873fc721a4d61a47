"""Replacing layers inside a model."""

import copy
from collections.abc import Callable
from typing import Any

from fbp._layer import Layer


def map_layers(f: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """Returns the model with f applied to every layer, from the inside out.

    The layers that a layer holds are found in its fields: fields that are layers, or tuples, lists
    and dicts of layers, however deep. f is applied to those first, then to a copy of the layer that
    holds the results; the copy's `__post_init__`, if it has one, may reject them.

    Args:
      f: returns its argument, or the layer to replace it with.
      layer: the model.

    Example:
      map_layers(lambda layer: Tanh() if isinstance(layer, Relu) else layer, model)
    """
    return f(map_held(lambda held: map_layers(f, held), layer))


def map_held(f: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """Returns the layer with f applied to the layers in its own fields."""
    fields = {name: (held, _map_field(f, held)) for name, held in vars(layer).items()}
    if all(held is new for held, new in fields.values()):
        return layer
    replaced = copy.copy(layer)
    for name, (_, new) in fields.items():
        # Not `dataclasses.replace`: a Group's fields are not the arguments of its constructor.
        object.__setattr__(replaced, name, new)
    if hasattr(replaced, "__post_init__"):
        replaced.__post_init__()  # may reject the new layers
    return replaced


def map_named(f: Callable[[str, Layer], Layer], group: Any) -> Any:
    """Returns a `Group` with f applied to the names, or numbers, and the layers of its parts."""
    names = group.names or tuple(map(str, range(len(group.layers))))
    replaced = copy.copy(group)
    layers = tuple(f(name, layer) for name, layer in zip(names, group.layers, strict=True))
    object.__setattr__(replaced, "layers", layers)
    return replaced


def _map_field(f: Callable[[Layer], Layer], held: Any) -> Any:
    if isinstance(held, Layer):
        return f(held)
    if type(held) in (tuple, list):
        items = [_map_field(f, item) for item in held]
        same = all(a is b for a, b in zip(held, items, strict=True))
        return held if same else type(held)(items)
    if type(held) is dict:
        named = {name: _map_field(f, item) for name, item in held.items()}
        return held if all(held[name] is named[name] for name in held) else named
    return held
