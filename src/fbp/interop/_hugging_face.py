"""Folders of models in Hugging Face's layout: config.json and safetensors files."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fbp._layer import Layer, Params
from fbp._tree import named_leaves
from fbp.interop._config import CONFIG
from fbp.interop._config_of import config_of
from fbp.interop._files import FolderError
from fbp.interop._model_of import complete, model_of
from fbp.interop._names import Names, names_of
from fbp.interop._new_folder import new_folder, write_file
from fbp.interop._origin import Origin, config_text, origin_of, with_origin
from fbp.interop._safetensors import read_tensors
from fbp.interop._stored import require_all_used, require_plain, spellings, stored_dtype
from fbp.interop._write import write_tensors


def from_pretrained(
    folder: str | Path, dtype: DTypeLike | None = None, *, dropout: bool = False
) -> tuple[Layer, Params]:
    """Returns the model of a folder, whose forward returns logits, and its params.

    Reads config.json and one or several safetensors files; nothing in the folder is executed. The
    model takes along what `save_pretrained` writes back: config.json, generation_config.json, the
    files of the tokenizer, chat templates.

    Args:
      folder: the folder of a GPT-2, Llama, Mistral, Qwen2 or Qwen3.
      dtype: the dtype of the params; by default that of the stored weights, the widest if several.
      dropout: whether the model has the dropout that config.json gives for its training; a training
        step then needs a key.

    Raises:
      FolderError: the folder is not one of these, its weights are quantized, or it has weights that
        the model has no place for; the message says in one line what is wrong.
    """
    folder = Path(folder)
    origin = Origin.read(folder)
    config = origin.config
    # Before the weights: their names and shapes depend on what the config describes.
    model = model_of(folder, config, jnp.float32, dropout=dropout)
    tensors = read_tensors(folder)
    require_plain(folder, tensors)
    names = names_of(complete(config))
    paths = named_leaves(jax.eval_shape(model.init, jax.random.key(0)))
    layers = next(leaf.shape[0] for path, leaf in paths.items() if path.startswith("blocks."))
    require_all_used(folder, tensors, {path: names[path] for path in paths}, layers)
    if dtype is None:
        dtype = stored_dtype(folder, tensors)
    model = model_of(folder, config, dtype, dropout=dropout)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves = []
    for path, leaf in named_leaves(shapes).items():
        leaves.append(_read(folder, tensors, names[path], leaf))
    return with_origin(model, origin), jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def save_pretrained(folder: str | Path, model: Layer, params: Params) -> None:
    """Writes a model as a folder that `transformers` loads: all of it or nothing.

    A model from `from_pretrained` gets the config.json that it was loaded with, byte for byte
    unless the params have another dtype or the model was changed, and the other files of its
    folder. Everything is written beside the folder and flushed to the disk before it gets its name.

    Args:
      folder: a new or an empty one; or one with other files, none of which is overwritten.
      model: made by `gpt2`, `llama`, `mistral`, `qwen2` or `qwen3`, or loaded.
      params: its params.

    Raises:
      ValueError: the model is not one of these, or the params are not those of the model.
      FolderError: a file exists already, or cannot be written.
    """
    folder = Path(folder)
    config = config_of(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    if named_leaves(shapes).keys() != named_leaves(params).keys():
        raise ValueError(f"save_pretrained: expected params of the model, got {_tree(params)}")
    names = names_of(config)
    tensors: dict[str, np.ndarray] = {}
    wanted = named_leaves(shapes)
    for path, leaf in named_leaves(params).items():
        if leaf.shape != wanted[path].shape:
            raise ValueError(
                f"save_pretrained: expected {path} of shape {wanted[path].shape}, got {leaf.shape}"
            )
        tensors.update(_write(names[path], np.asarray(leaf)))
    dtype = str(stored_dtype(folder, tensors))
    text, files = _around(model, config, dtype)
    if os.path.lexists(folder / CONFIG):
        raise FolderError(f"{folder / CONFIG} is there already and is kept: choose another folder")
    with new_folder(folder) as partial:
        write_tensors(partial, tensors)
        for name, content in {**files, CONFIG: text}.items():
            write_file(partial / name, content)


def _around(model: Layer, config: dict[str, Any], dtype: str) -> tuple[bytes, dict[str, bytes]]:
    """config.json and the other files, for a model that `config` describes."""
    origin = origin_of(model)
    if origin is None:
        return config_text({**config, "dtype": dtype, "torch_dtype": dtype}), {}
    found = dict(origin.config)
    if not _describes(found, model):
        found |= config
    there = [name for name in ("dtype", "torch_dtype") if name in found] or ["dtype"]
    if any(found.get(name) != dtype for name in there):
        found |= dict.fromkeys(there, dtype)
    same = found == origin.config
    return (origin.text if same else config_text(found)), origin.files


def _describes(config: dict[str, Any], model: Layer) -> bool:
    """Whether a config says the model that it was loaded as, with its dropout or without."""
    dtype = jax.eval_shape(model.init, jax.random.key(0))["embed"]["w"].dtype
    where = Path(CONFIG)
    return any(model == model_of(where, config, dtype, dropout=drop) for drop in (False, True))


def _read(folder: Path, tensors: Mapping[str, np.ndarray], names: Names, leaf: Any) -> Any:
    """One array of the params, read from its tensors, whose shapes are checked first."""
    in_blocks = "{i}" in names.parts[0]
    *rows, last = leaf.shape[1:] if in_blocks else leaf.shape
    sizes = names.sizes or (last,)
    blocks = []
    for i in range(leaf.shape[0] if in_blocks else 1):
        parts = []
        for name, size in zip(names.parts, sizes, strict=True):
            name = name.format(i=i)
            part = _tensor(folder, tensors, name)
            there = (size, *reversed(rows)) if names.transposed else (*rows, size)
            if part.shape != there:
                raise FolderError(f"{folder}: expected {name} of shape {there}, got {part.shape}")
            parts.append(part.T if names.transposed else part)
        blocks.append(parts)
    # Filled in place, so that there is no second copy of the array.
    array = np.empty(leaf.shape, leaf.dtype)
    for block, parts in zip(array if in_blocks else [array], blocks, strict=True):
        np.concatenate(parts, -1, out=block, casting="unsafe")
    return jnp.asarray(array)


def _tensor(folder: Path, tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    for there in spellings(name):
        if there in tensors:
            return tensors[there]
    raise FolderError(f"{folder}: expected a tensor {name}, got none")


def _write(names: Names, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors, with their names, that store one array of the params."""
    in_blocks = "{i}" in names.parts[0]
    for i, block in enumerate(array if in_blocks else [array]):
        cuts = np.cumsum(names.sizes)[:-1]
        for name, part in zip(names.parts, np.split(block, cuts, -1), strict=True):
            yield name.format(i=i), np.ascontiguousarray(part.T if names.transposed else part)


def _tree(params: Params) -> str:
    return str(sorted(named_leaves(params)))
