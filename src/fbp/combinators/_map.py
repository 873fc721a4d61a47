"""Replacing layers inside a model."""

import copy
from collections.abc import Callable
from typing import Any

from fbp._layer import Layer


def map_layers(f: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """Returns the model with f applied to every layer, from the inside out.

    A layer's own fields are looked through: those that are layers, and tuples of layers. f sees
    first those inside, then the layer that holds them, with what f made of them: a copy, which is
    asked by its `__post_init__`, if it has one, whether it takes them.

    Args:
      f: returns its argument, or another layer to put in its place.
      layer: the model.

    Example:
      map_layers(lambda layer: Tanh() if isinstance(layer, Relu) else layer, model)
    """
    return f(map_held(lambda held: map_layers(f, held), layer))


def map_held(f: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """Returns the layer with f applied to the layers that it holds itself."""
    fields = {name: (held, _map_field(f, held)) for name, held in vars(layer).items()}
    if all(held is new for held, new in fields.values()):
        return layer
    replaced = copy.copy(layer)
    for name, (_, new) in fields.items():
        # Not by `dataclasses.replace`: the fields of a Group are not the arguments it takes.
        object.__setattr__(replaced, name, new)
    if hasattr(replaced, "__post_init__"):
        replaced.__post_init__()  # It may refuse what f made.
    return replaced


def _map_field(f: Callable[[Layer], Layer], held: Any) -> Any:
    if isinstance(held, Layer):
        return f(held)
    if isinstance(held, tuple) and any(isinstance(item, Layer) for item in held):
        new = tuple(_map_field(f, item) for item in held)
        return held if all(a is b for a, b in zip(held, new, strict=True)) else new
    return held
