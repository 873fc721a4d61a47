"""Names and sizes of the leaves of a tree."""

import fnmatch
import math
from typing import Any

import jax

from fbp._layer import PyTree


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a leaf, as in `dense_1.w`."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, in order."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def children(x: PyTree) -> tuple[dict[Any, Any], Any]:
    """The parts of a container, one level down, by their keys or places, and the tree that joins
    them again. A leaf has itself as its only part."""
    entries, tree = jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda part: part is not x)
    parts = {}
    for keys, part in entries:
        key = keys[-1] if keys else None
        parts[getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))] = part
    return parts, tree


def nbytes(tree: PyTree) -> int:
    """The total size of a tree's arrays in bytes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def count(tree: PyTree) -> int:
    """The total number of elements in a tree's arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def matches(path: str, pattern: str) -> bool:
    """Whether a path is that of a pattern, in which `*` is any text, or lies below it."""
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern + ".*")
