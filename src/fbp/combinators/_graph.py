"""The computational graph: named values, each computed by a layer from others."""

import collections
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from fbp._described import described
from fbp._gradients import add, zero_gradient
from fbp._layer import Key, Layer, Params, PyTree, split
from fbp._require import require_layer
from fbp._tree import children
from fbp.combinators._group import Group
from fbp.combinators._node import Node, listed, reading


@dataclasses.dataclass(frozen=True, init=False)
class Graph(Group):
    """A computational graph: named nodes, each a layer and the names of the values it reads.

        v_i  = f_i(x_i)                        x_i: the values that node i reads
        dv_j = sum_i (dx_i/dv_j)^T dx_i        a value that is read several times: a sum

    The forward computes the nodes in the order in which they are given. The backward takes them in
    reverse order: when it comes to a node, all that read its value have been passed, so dv is
    complete, and the node's backward turns it into the gradients of what it reads. This is
    reverse-mode differentiation; `Serial`, `Parallel`, `Sum` and `Residual` are its easy cases.

        fbp.Graph(
            inputs=("image", "time"),
            embed=(fbp.Dense(64, 64), "time"),
            down=(fbp.Conv2D(3, 64, 3), "image"),
            middle=(Block(64), ("down", "embed")),
            up=(fbp.Concat(), ("middle", "down")),
            output="up",
        )

    A node whose layer is the name of an earlier node, `b=("a", "y")`, uses that node's layer and
    its params once more; their gradients are summed too.

    Keeps each value that a node reads once, except what the caller keeps (the inputs) and outputs
    of `cheap` layers, which the backward recomputes, as in `Serial`.

    Args:
      inputs: the name of x; or a tuple of names, of the parts of x, which is then a tuple in this
        order or a dict with these names.
      output: the name of y; or a tuple or a dict of names, which y then is.
      **nodes: `name=(layer, reads)`, where reads is a name, or a tuple or a dict of names, as the
        layer takes its x. params is a dict with the names of the nodes that have a layer of their
        own.

    Raises:
      TypeError: a node is not a pair of a Layer (or the name of a node before it) and names.
      ValueError: a node reads a name that does not exist or comes later; a name is both an input
        and a node; there are no nodes; x or params have another form than this graph's.

    Warns:
      UserWarning: nothing reads a node and it is no output.

    Source: Linnainmaa, "Taylor expansion of the accumulated rounding error", BIT 16, 1976;
    Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 6.5.
    """

    inputs: Any
    nodes: tuple[Node, ...]
    outputs: Node

    def __init__(self, /, inputs: Any, output: Any, **nodes: Any):
        _require_inputs(inputs)
        given = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        known = dict.fromkeys(given)
        if len(known) < len(given):
            twice = next(name for name in given if given.count(name) > 1)
            raise ValueError(f"Graph: expected different names, got {twice!r} twice")
        layers: dict[str, Layer] = {}
        numbers: dict[str, int] = {}
        made = []
        for name, node in nodes.items():
            if name in known:
                raise ValueError(f"Graph: expected different names, got {name!r} twice")
            if not (isinstance(node, tuple) and len(node) == 2):
                raise TypeError(
                    f"Graph: expected {name}=(layer, reads), got {described(node)}: "
                    f'as in {name}=(fbp.Tanh(), "x")'
                )
            layer, reads = node
            if isinstance(layer, str):
                if layer not in numbers:
                    raise ValueError(
                        f"Graph: expected {name} to share the layer of a node before it, "
                        f"got {layer!r}, and before it are {listed(numbers)}"
                    )
                numbers[name] = numbers[layer]
            else:
                require_layer(self, layer)
                numbers[name] = len(layers)
                layers[name] = layer
            made.append(reading(name, numbers[name], reads, known, nodes))
            known[name] = None
        if not made:
            raise ValueError("Graph: expected at least one node, got none")
        super().__init__(**layers)
        object.__setattr__(self, "inputs", inputs if isinstance(inputs, str) else given)
        object.__setattr__(self, "nodes", tuple(made))
        object.__setattr__(self, "outputs", reading("output", -1, output, known, nodes))
        read = {name for node in (*made, self.outputs) for name in node.reads}
        if unread := [node.name for node in made if node.name not in read]:
            warnings.warn(
                f"Graph: nothing reads {listed(unread)}: computed in vain",
                UserWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        shown = [f"inputs={self.inputs!r}"]
        for node in self.nodes:
            first = next(n for n in self.nodes if n.layer == node.layer)
            layer = repr(first.name) if first is not node else repr(self.layers[node.layer])
            shown.append(f"{node.name}=({layer}, {node.tree.unflatten(node.reads)!r})")
        output = self.outputs.tree.unflatten(self.outputs.reads)
        return f"Graph({', '.join(shown)}, output={output!r})"

    @property
    def shares(self) -> bool:
        """Whether several nodes use the params of one layer."""
        return len(self.nodes) > len(self.layers)

    @property
    def cheap(self) -> bool:
        return all(layer.cheap for layer in self.layers)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        values, kept = self._named(x), {}
        for node, layer, p, k in self._walk(params, key):
            y, res = layer.forward(p, node.x(values), k)
            values[node.name] = y
            keep = node.name in self._read and not layer.cheap
            kept[node.name] = (y if keep else None, res)
        return self.outputs.x(values), kept

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        values = self._values(params, x, res)
        # A gradient of each value from each node that reads it; of each layer's params from each
        # node that uses them.
        dvalues: dict[str, list[PyTree]] = collections.defaultdict(list)
        dparams: list[list[Params]] = [[] for _ in self.layers]
        for name, d in self.outputs.parts(dy):
            dvalues[name].append(d)
        for node, layer, p, _ in reversed(list(self._walk(params, None))):
            x_i = node.x(values)
            if node.name in dvalues:
                dy_i = add(*dvalues[node.name])
            else:
                dy_i = zero_gradient(jax.eval_shape(layer.forward, p, x_i)[0])
            dp_i, dx_i = layer.backward(p, x_i, res[node.name][1], dy_i)
            dparams[node.layer].append(dp_i)
            for name, d in node.parts(dx_i):
                dvalues[name].append(d)
        dx = {
            name: add(*dvalues[name]) if name in dvalues else zero_gradient(value)
            for name, value in self._named(x).items()
        }
        return self.pack([add(*ds) for ds in dparams]), self._unnamed(x, dx)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.outputs.x(self._values(params, x, res, every=True))

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        values, states = self._named(x), {}
        for node, layer, p, _ in self._walk(params, None):
            states[node.name] = layer.start(p, node.x(values), length)
            y, _ = jax.eval_shape(layer.step, p, node.x(values), states[node.name])
            values[node.name] = y
        return states

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        values, states = self._named(x), {}
        for node, layer, p, _ in self._walk(params, None):
            values[node.name], states[node.name] = layer.steps(p, node.x(values), state[node.name])
        return self.outputs.x(values), states

    def _values(
        self, params: Params, x: PyTree, res: PyTree, every: bool = False
    ) -> dict[str, PyTree]:
        """The values that nodes read, or all: given, kept, or computed again."""
        values = self._named(x)
        for node, layer, p, _ in self._walk(params, None):
            kept, r = res[node.name]
            if node.name in self._read and not layer.cheap:
                values[node.name] = kept
            elif node.name in self._read or every:
                values[node.name] = layer.recompute(p, node.x(values), r)
        return values

    @property
    def _read(self) -> set[str]:
        """The values that the backward of some node needs."""
        return {name for node in self.nodes for name in node.reads}

    def _walk(self, params: Params, key: Key) -> Iterator[tuple[Node, Layer, Params, Key]]:
        """Each node with its layer, its params and its key, in order."""
        ps, keys = self.unpack(params), split(key, len(self.nodes))
        for node, k in zip(self.nodes, keys, strict=True):
            yield node, self.layers[node.layer], ps[node.layer], k

    def _named(self, x: PyTree) -> dict[str, PyTree]:
        """The parts of x by name."""
        if isinstance(self.inputs, str):
            return {self.inputs: x}
        parts, _ = children(x)
        names = list(parts) if isinstance(x, dict) else list(self.inputs)
        there = isinstance(x, dict | tuple) and len(names) == len(parts)
        if not there or set(names) != set(self.inputs):
            raise ValueError(
                f"Graph: expected x to be a dict of {listed(self.inputs)}, or a tuple of these, "
                f"got {described(x)}"
            )
        return dict(zip(names, parts.values(), strict=True))

    def _unnamed(self, x: PyTree, named: dict[str, PyTree]) -> PyTree:
        """The inverse of `_named`, for gradients: in the form of x."""
        if isinstance(self.inputs, str):
            return named[self.inputs]
        return children(x)[1].unflatten(named[name] for name in self._named(x))


def _require_inputs(inputs: Any) -> None:
    if not isinstance(inputs, str | tuple | list) or not all(isinstance(n, str) for n in inputs):
        raise TypeError(
            f"Graph: expected inputs to be a name or a tuple of names, got {described(inputs)}"
        )
