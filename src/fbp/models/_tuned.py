"""Fine-tuning a model with few parameters: LoRA in its dense layers, the rest frozen."""

import copy
import re
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array, Layer, Params
from fbp._tree import named_leaves
from fbp.combinators._group import Group
from fbp.layers import Dense
from fbp.ports import Freeze, LoRA, Tie


def with_lora(
    model: Layer,
    params: Params,
    key: Array,
    *,
    rank: int,
    alpha: float | None = None,
    where: str = "qkv|out|up|down",
) -> tuple[Layer, Params]:
    """Returns the model with LoRA in the dense layers of these names, and all else frozen.

    Before training it computes the same function as the model. With
    `optax.masked(optimizer, fbp.trainable(model))` the frozen params need no optimizer state.
    `without_lora` merges the products into the weights again.

    Args:
      model: any model whose layers have names.
      params: its params; the frozen ones are not copied.
      key: for the matrices that start at random.
      rank: of the products.
      alpha: of their scale, as in `LoRA`.
      where: a regular expression that must match the whole name of a dense layer.

    Raises:
      ValueError: no dense layer has such a name.
    """
    tuned = _tuned(model, "", re.compile(where), rank, alpha)
    shapes = jax.eval_shape(tuned.init, key)
    old = named_leaves(params)
    leaves = []
    new = named_leaves(shapes)
    for i, (path, leaf) in enumerate(new.items()):
        layer, _, name = path.rpartition(".")
        if f"{layer}.dense.w" not in new:
            leaves.append(old[path] if path in old else old[path.replace(".dense.", ".")])
        elif name == "b":
            leaves.append(jnp.zeros(leaf.shape, leaf.dtype))
        else:
            # Variance 1 / n_in, as in `LoRA.init`; in a Stack the first axis is that of the copies.
            draw = jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
            leaves.append(draw * leaf.shape[-2] ** -0.5)
    if len(leaves) == len(old):
        raise ValueError(f"with_lora: expected a dense layer named like {where!r}, got none")
    return tuned, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def without_lora(model: Layer, params: Params) -> tuple[Layer, Params]:
    """Returns the model without `LoRA` and `Freeze`, with w + c a b for each w."""
    if isinstance(model, LoRA):
        return model.dense, model.merged(params)
    if isinstance(model, Freeze):
        return without_lora(model.layer, params)
    if isinstance(model, Tie):
        inner, params = without_lora(model.layer, model.untied(params))
        return _holding(model, [inner]), model.kept(params)
    held = _held(model)
    if not held:
        return model, params
    if isinstance(model, Group):
        pairs = [without_lora(*pair) for pair in zip(held, model.unpack(params), strict=True)]
        return _holding(model, [layer for layer, _ in pairs]), model.pack([p for _, p in pairs])
    inner, params = without_lora(held[0], params)
    return _holding(model, [inner]), params


def _tuned(
    layer: Layer, name: str, where: re.Pattern[str], rank: int, alpha: float | None
) -> Layer:
    if isinstance(layer, Dense) and where.fullmatch(name):
        return LoRA(layer, rank, alpha)
    held = _held(layer)
    if not held:
        has_params = jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0)))
        return Freeze(layer) if has_params else layer
    names = getattr(layer, "names", None) or [name] * len(held)
    inner = [_tuned(one, n, where, rank, alpha) for one, n in zip(held, names, strict=True)]
    return _holding(layer, inner)


def _held(layer: Layer) -> list[Layer]:
    """The layers inside a layer."""
    if isinstance(layer, Group):
        return list(layer.layers)
    return [value for value in vars(layer).values() if isinstance(value, Layer)]


def _holding(layer: Layer, inner: list[Layer]) -> Any:
    """A copy of the layer with other layers inside."""
    changed = copy.copy(layer)
    if isinstance(layer, Group):
        object.__setattr__(changed, "layers", tuple(inner))
        return changed
    fields = [name for name, value in vars(layer).items() if isinstance(value, Layer)]
    for name, value in zip(fields, inner, strict=True):
        object.__setattr__(changed, name, value)
    return changed
