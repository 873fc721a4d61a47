"""The arrays of a layer's pass by the names that its rule gives them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Layer
from fbp.explainer._page_arrays import Pool
from fbp.explainer._traced import Pass
from fbp.layers import Attention, Bias, MergeHeads, Rope, Scale, SplitHeads

HEADS = Attention, SplitHeads, MergeHeads, Rope
# What the page needs of an array: its name, its side of the rule, its number, shape and dtype.
Ref = list[Any]


def arrays_of(layer: Layer, one: Pass, pool: Pool) -> list[Ref]:
    """The arrays of a pass, each as [name, side, number, shape, dtype]."""
    heads = isinstance(layer, HEADS)
    single = {Scale: "w", Bias: "b"}.get(type(layer), "w")
    found = []
    for side, tree, name in (
        ("x", one.x, "x"),
        ("params", one.params, single),
        ("y", one.y, "y"),
        ("res", one.res, "kept"),
        ("dy", one.dy, "dy"),
        ("dparams", one.dparams, f"d{single}"),
        ("dx", one.dx, "dx"),
    ):
        found += named(name, side, tree, pool, heads=heads)
    return found


def named(name: str, side: str, tree: Any, pool: Pool, *, heads: bool = False) -> list[Ref]:
    """The arrays of a tree, by a name and their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = []
    for keys, a in leaves:
        if not _is_shown(a):
            continue
        at = jax.tree_util.keystr(keys, simple=True, separator=".")
        if heads and len(leaves) == 3 and len(keys) == 1:
            said = ("d" if name.startswith("d") else "") + "qkv"[int(at)]
        elif not at:
            said = name
        elif side in ("params", "dparams"):
            said = at if side == "params" else f"d{at}"
        else:
            said = f"{name} {at}"
        number = pool.put(a, heads=heads)
        found.append([said, side, number, list(np.shape(a)), str(np.asarray(a).dtype)])
    # Weights before biases, as in y = w x + b.
    if side in ("params", "dparams"):
        found.sort(key=lambda ref: not str(ref[0]).removeprefix("d").startswith("w"))
    return found


def _is_shown(a: Any) -> bool:
    dtype = getattr(a, "dtype", None)
    return dtype is not None and (str(dtype) == "bfloat16" or np.dtype(dtype).kind in "fiub")


def local_of(layer: Layer, one: Pass, pool: Pool) -> list[Ref]:
    """dx for a dy of 1: the derivative of y by its own x, from the layer's rule."""
    if one.dy is None or np.ndim(one.dy) != np.ndim(one.x):
        return []
    x, res, dy = jax.tree.map(jnp.asarray, (one.x, one.res, one.dy))
    return named("local", "local", layer.backward((), x, res, jnp.ones_like(dy))[1], pool)
