"""The arrays of a layer's pass by the names that its rule gives them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Layer
from fbp.combinators import Recurrent
from fbp.explainer._page_arrays import Pool
from fbp.explainer._page_made import Made
from fbp.explainer._traced import Pass
from fbp.layers import (
    Attention,
    AvgPool2D,
    Bias,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Embedding,
    GlobalAvgPool2D,
    MaxPool2D,
    Rope,
    Scale,
    SplitHeads,
    Unembed,
)

# Layers of queries, keys and values; of images; and those whose sums need a row for each vector.
QKV = Attention, Rope, SplitHeads
IMAGES = Conv2D, ConvTranspose2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D
VECTORS = Dense, Unembed, Embedding, Recurrent
# What the page needs of an array: its name, its side of the rule, its number, shape and dtype; and
# of one whose rows have parts, what these are.
Ref = list[Any]


def arrays_of(layer: Layer, one: Pass, pool: Pool) -> list[Ref]:
    """The arrays of a pass, each as [name, side, number, shape, dtype]."""
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
        found += named(name, side, tree, pool, layer)
    return found


def named(name: str, side: str, tree: Any, pool: Pool, layer: Any = None) -> list[Ref]:
    """The arrays of a tree, by a name and their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = []
    for keys, a in leaves:
        if not _is_shown(a):
            continue
        at = jax.tree_util.keystr(keys, simple=True, separator=".")
        if isinstance(layer, QKV) and len(leaves) in (3, 4) and len(keys) == 1 and side != "res":
            said = ("d" if name.startswith("d") else "") + ("q", "k", "v", "mask")[int(at)]
            # Rope gives what it is given, turned.
            said += "'" if isinstance(layer, Rope) and side in ("y", "dy") else ""
        elif not at:
            said = name
        elif side in ("params", "dparams"):
            said = at if side == "params" else f"d{at}"
        else:
            said = f"{name} {at}"
        number = pool.put(a, axes_of_row(layer, side, a))
        found.append([said, side, number, list(np.shape(a)), str(np.asarray(a).dtype)])
    # Weights before biases, as in y = w x + b.
    if side in ("params", "dparams"):
        found.sort(key=lambda ref: not str(ref[0]).removeprefix("d").startswith("w"))
    return found


def with_made(layer: Layer, arrays: list[Ref], made: Made, pool: Pool) -> list[Ref]:
    """The arrays of a pass, and those made for it where they come about: before y, and before the
    gradients."""
    sides = {of for _, of, _ in made.arrays}
    # Of a layer that names what it keeps, what is kept has no other name.
    refs = [
        [made.names.get(ref[0], ref[0]), *ref[1:]]
        for ref in arrays
        if ref[1] != "res" or "res" not in sides
    ]
    for these, before in ((("made", "res"), "y"), (("dmade",), "dparams")):
        new = []
        for name, side, a in made.arrays:
            if side in these:
                found = named(name, side, _narrow(a), pool, layer)
                new += [
                    [*ref, *([list(made.parts[name])] if name in made.parts else [])]
                    for ref in found
                ]
        ends = [i for i, ref in enumerate(refs) if ref[1] in (before, "dx")]
        at = ends[0] if ends else len(refs)
        refs[at:at] = new
    return refs


def _narrow(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) if a.dtype == np.float64 else a


def axes_of_row(layer: Any, side: str, a: Any) -> int:
    """How many of the last axes are a row of the page: two of heads and of images."""
    most = 1 if side in ("params", "dparams", "res") or isinstance(layer, VECTORS) else 2
    if isinstance(layer, (Attention, *IMAGES)) and np.asarray(a).dtype.kind not in "iub":
        return most if np.ndim(a) >= 3 else 1
    return most if np.ndim(a) == 4 else 1


def _is_shown(a: Any) -> bool:
    dtype = getattr(a, "dtype", None)
    return dtype is not None and (str(dtype) == "bfloat16" or np.dtype(dtype).kind in "fiub")


def local_of(layer: Layer, one: Pass, pool: Pool) -> list[Ref]:
    """dx for a dy of 1: the derivative of y by its own x, from the layer's rule."""
    if one.dy is None or np.ndim(one.dy) != np.ndim(one.x):
        return []
    x, res, dy = jax.tree.map(jnp.asarray, (one.x, one.res, one.dy))
    return named("local", "local", layer.backward((), x, res, jnp.ones_like(dy))[1], pool, layer)
