"""The base of Serial and Parallel: several layers, by position or by name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from fbp._layer import Array, Layer, Params, name_of
from fbp._require import require_layer


@dataclasses.dataclass(frozen=True, init=False)
class Group(Layer):
    """Layers given in order, `Serial(a, b)`, or with names, `Serial(norm=a, dense=b)`.

    With names, params is a dict with those names, so that every leaf has a readable path; without,
    a tuple.
    """

    layers: tuple[Layer, ...]
    names: tuple[str, ...] | None

    def __init__(self, /, *layers: Layer, **named: Layer):
        if layers and named:
            raise TypeError(f"{name_of(self)}: expected layers all with names or all without")
        for layer in (*layers, *named.values()):
            require_layer(self, layer)
        object.__setattr__(self, "layers", layers or tuple(named.values()))
        object.__setattr__(self, "names", tuple(named) or None)

    def __repr__(self) -> str:
        names = self.names or ("",) * len(self.layers)
        shown = [
            f"{name}={layer!r}" if name else repr(layer)
            for name, layer in zip(names, self.layers, strict=True)
        ]
        return f"{name_of(self)}({', '.join(shown)})"

    def init(self, key: Array) -> Params:
        keys = jax.random.split(key, len(self.layers))
        return self.pack([layer.init(k) for layer, k in zip(self.layers, keys, strict=True)])

    def pack(self, values: Sequence[Any]) -> Any:
        """One value a layer, as a dict with the layers' names or as a tuple."""
        if self.names is None:
            return tuple(values)
        return dict(zip(self.names, values, strict=True))

    def unpack(self, tree: Any, what: str = "params") -> list[Any]:
        """The inverse of `pack`; raises ValueError for a tree of another form."""
        if self.names is None:
            if isinstance(tree, tuple) and len(tree) == len(self.layers):
                return list(tree)
            expected = f"a tuple of {len(self.layers)}"
        else:
            if isinstance(tree, dict) and set(tree) == set(self.names):
                return [tree[name] for name in self.names]
            expected = f"a dict of {sorted(self.names)}"
        got: Any = type(tree).__name__
        if isinstance(tree, dict):
            got = f"a dict of {sorted(tree)}"
        elif isinstance(tree, tuple | list):
            got = f"a {got} of {len(tree)}"
        raise ValueError(f"{name_of(self)}: expected {what} to be {expected}, got {got}")
