"""GPT-2 and Llama folders in Hugging Face's layout: config.json and safetensors files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fbp._layer import Layer, Params
from fbp._tree import named_leaves
from fbp.interop._config import CONFIG, read_config
from fbp.interop._config_of import config_of
from fbp.interop._files import FolderError
from fbp.interop._model_of import model_of
from fbp.interop._names import Names, names_of
from fbp.interop._safetensors import read_tensors
from fbp.interop._write import write_tensors


def from_pretrained(folder: str | Path, dtype: DTypeLike | None = None) -> tuple[Layer, Params]:
    """Returns the model of a folder, whose forward returns logits, and its params.

    Reads config.json and one or several safetensors files; nothing in the folder is executed.

    Args:
      folder: the folder of a GPT-2 or a Llama.
      dtype: the dtype of the params; by default that of the stored embedding.

    Raises:
      FolderError: the folder is not one of these; the message says in one line what is wrong.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = read_tensors(folder)
    model = model_of(folder, config, jnp.float32 if dtype is None else dtype)
    names = names_of(config)
    if dtype is None:
        (name,) = names["embed.w"].parts
        model = model_of(folder, config, _tensor(folder, tensors, name).dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves = []
    for path, leaf in named_leaves(shapes).items():
        leaves.append(_read(folder, tensors, names[path], leaf))
    return model, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def save_pretrained(folder: str | Path, model: Layer, params: Params) -> None:
    """Writes a model made by `gpt2` or `llama` as a folder that `transformers` loads.

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
    config["dtype"] = config["torch_dtype"] = str(next(iter(tensors.values())).dtype)
    if (folder / CONFIG).exists():
        raise FolderError(f"{folder / CONFIG} is there already and is kept: choose another folder")
    write_tensors(folder, tensors)
    try:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise FolderError(f"{folder / CONFIG}: cannot be written: {error.strerror}") from None


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
    # Files of the transformer without its head have no prefix.
    for there in (name, name.removeprefix("transformer.").removeprefix("model.")):
        if there in tensors:
            tensor = tensors[there]
            if not jnp.issubdtype(tensor.dtype, jnp.floating):
                raise FolderError(f"{folder}: expected {there} of floats, got {tensor.dtype}")
            return tensor
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
