"""The same model with other layers inside."""

import dataclasses
from collections.abc import Callable

from fbp._layer import Layer
from fbp.combinators._group import Group


def map_layers(f: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """Applies f to every layer inside a layer, innermost first, and then to the layer itself.

    What holds other layers is made anew around what f returned for them. Params that fit the one
    fit the other wherever f keeps their shapes.
    """
    if isinstance(layer, Group):
        inner = [map_layers(f, held) for held in layer.layers]
        if layer.names is None:
            return f(type(layer)(*inner))
        return f(type(layer)(**dict(zip(layer.names, inner, strict=True))))
    held = {
        field.name: getattr(layer, field.name)
        for field in dataclasses.fields(layer)  # type: ignore[arg-type]
        if isinstance(getattr(layer, field.name), Layer)
    }
    if held:
        changed = {name: map_layers(f, inner) for name, inner in held.items()}
        layer = dataclasses.replace(layer, **changed)  # type: ignore[type-var]
    return f(layer)
