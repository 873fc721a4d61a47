"""Observes the layers of a model while its forward is traced.

Every layer is wrapped in a probe, which records its input and output, and marks its params and
residuals with the layer's row. The marks are part of the trees and pass through scans and
combinators, so that each kept leaf names its layer.
"""

import dataclasses
from typing import Any

import jax

from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._tree import path_of
from fbp.combinators import Graph
from fbp.combinators._node import Node
from fbp.explainer._inside import layers_inside, with_layers


@dataclasses.dataclass
class Row:
    """One layer of a summary.

    Attributes:
      path: where its parameters are, such as `dense_1`; "" for the model itself.
      depth: how many layers it is inside.
      layer: its class.
      is_leaf: whether it has no layers inside.
      output: dtypes and shapes of its output; inside a `Stack`, of one copy.
      params: how many parameters it has itself, in all copies together.
      input: how its backward gets its input: "given", it is the input of the layer around it;
        "kept"; or "recomputed".
      kept: bytes kept for its backward: its residuals, and its input if that is kept for it. In a
        `Graph`, where a value may have several readers, its output instead of its input.
    """

    path: str
    depth: int
    layer: str
    is_leaf: bool
    output: str = ""
    params: int = 0
    input: str = "recomputed"
    kept: int = 0


class Trace:
    """The records of one trace of a model's forward."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.children: dict[int, dict[str, int]] = {}
        self.inputs: list[PyTree] = []
        self.graphs: set[int] = set()

    def keeper(self, owner: int, keys: tuple[Any, ...]) -> int:
        """The row whose backward needs a leaf of `owner`'s residuals.

        A combinator keeps only inputs of its layers. A leaf belongs to the layer with the name or
        index that the leaf has in the tree, or to the only layer.
        """
        children = self.children[owner]
        if len(children) == 1:
            return next(iter(children.values()))
        return children.get(path_of(keys[:1]), owner)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass
class _Owned:
    """A tree that is marked with a row; itself a pytree, so that the mark passes through scans."""

    tree: PyTree
    row: int

    def tree_flatten_with_keys(self) -> tuple[Any, int]:
        return [(_OwnerKey(self.row), self.tree)], self.row

    @classmethod
    def tree_unflatten(cls, row: int, children: Any) -> "_Owned":
        return cls(children[0], row)


@dataclasses.dataclass(frozen=True)
class _OwnerKey:
    row: int

    def __str__(self) -> str:
        return ""  # it adds nothing to a path


@dataclasses.dataclass(frozen=True)
class Probe(Layer):
    """A layer whose params and residuals are marked with its row, and whose output is recorded."""

    layer: Layer
    row: int
    trace: Trace

    @classmethod
    def around(cls, layer: Layer, path: str, depth: int, trace: Trace) -> "Probe":
        """The layer and all layers inside it, each wrapped in a probe."""
        number = len(trace.rows)
        fields = layers_inside(layer)
        trace.rows.append(Row(path, depth, name_of(layer), is_leaf=not fields))
        trace.children[number] = {}
        probes: dict[str, list[Probe]] = {}
        for field, named in fields.items():
            probes[field] = []
            for name, child in named:
                below = f"{path}.{name}".strip(".")
                probe = cls.around(child, below, depth + 1, trace)
                trace.children[number][name] = probe.row
                probes[field].append(probe)
        inside = with_layers(layer, probes)
        if isinstance(layer, Graph):
            trace.graphs.add(number)
            for node in layer.nodes:
                row = list(trace.children[number].values())[node.layer]
                trace.children[number][node.name] = row
                trace.rows[row].input = _input_of(layer, node)
        return cls(inside, number, trace)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return _Owned(self.layer.init(key), self.row)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        inputs, row = self.trace.inputs, self.trace.rows[self.row]
        if not inputs or inputs[-1] is x:
            row.input = "given"
        inputs.append(x)
        y, res = self.layer.forward(params.tree, x, key)
        inputs.pop()
        row.output = " ".join(f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(y))
        return y, _Owned(res, self.row)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        raise NotImplementedError("a summary looks at the forward alone")


def _input_of(graph: Graph, node: Node) -> str:
    """How the backward of a node gets its input."""
    inputs = (graph.inputs,) if isinstance(graph.inputs, str) else graph.inputs
    layers = {other.name: graph.layers[other.layer] for other in graph.nodes}
    computed = [layers[name] for name in node.reads if name not in inputs]
    if not computed:
        return "given"
    return "recomputed" if any(layer.cheap for layer in computed) else "kept"


def owned_leaves(tree: PyTree) -> list[tuple[int, tuple[Any, ...], Any]]:
    """(row, path, leaf) of every leaf: the innermost row around it, and its path from there."""
    leaves = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        last = max(i for i, key in enumerate(keys) if isinstance(key, _OwnerKey))
        leaves.append((keys[last].row, keys[last + 1 :], leaf))
    return leaves
