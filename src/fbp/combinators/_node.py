"""The nodes of a graph, and what is refused of them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from fbp._described import described
from fbp._layer import PyTree


@dataclasses.dataclass(frozen=True)
class Node:
    """A value of a graph: a layer's y at an x that is made of other values.

    Attributes:
      name: of the value.
      layer: index of the layer, and of its params, in `Graph.layers`.
      reads: names of the values that x is made of.
      tree: the tree in which x has them: of a single value, or a tuple or a dict of several.
    """

    name: str
    layer: int
    reads: tuple[str, ...]
    tree: Any

    def x(self, values: dict[str, PyTree]) -> PyTree:
        """The layer's input."""
        return self.tree.unflatten([values[name] for name in self.reads])

    def parts(self, dx: PyTree) -> Iterator[tuple[str, PyTree]]:
        """The gradient of each value that the node reads."""
        return zip(self.reads, self.tree.flatten_up_to(dx), strict=True)


def reading(
    name: str, layer: int, reads: Any, known: dict[str, None], nodes: dict[str, Any]
) -> Node:
    """A node, once all that it reads is known."""
    require_names(f"what {name} reads" if layer >= 0 else "output", reads)
    names, tree = jax.tree.flatten(reads)
    for read in names:
        if read in known:
            continue
        if cycle := _chain(read, name, nodes, set()):
            raise ValueError(f"Graph: expected no cycle, got {' <- '.join([name, *cycle])}")
        if read in nodes:
            raise ValueError(
                f"Graph: expected {name} to read what comes before it, got {read!r}, which comes "
                f"after it: write {name} after {read}"
            )
        raise ValueError(f"Graph: {name} reads {read!r}, which is none of {listed(known)}")
    return Node(name, layer, tuple(names), tree)


def _chain(first: str, last: str, nodes: dict[str, Any], seen: set[str]) -> list[str]:
    """The names from `first` to `last`, each reading the next; [] where there is no such chain."""
    if first == last:
        return [last]
    node = nodes.get(first)
    if first in seen or not (isinstance(node, tuple) and len(node) == 2):
        return []
    seen.add(first)
    for read in jax.tree.leaves(node[1]):
        if rest := _chain(read, last, nodes, seen):
            return [first, *rest]
    return []


def require_names(what: str, names: Any) -> None:
    leaves = jax.tree.leaves(names)
    if not leaves or not all(isinstance(name, str) for name in leaves):
        raise TypeError(
            f"Graph: expected {what} to be a name, or a tuple or a dict of names, "
            f"got {described(names)}"
        )


def listed(names: Any) -> str:
    return ", ".join(names) or "none"
