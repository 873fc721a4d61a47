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
from fbp.interop._config import CONFIG, expect, read_config
from fbp.interop._config_of import ACTIVATIONS, config_of
from fbp.interop._files import FolderError
from fbp.interop._names import Names, names_of
from fbp.interop._safetensors import read_tensors
from fbp.interop._write import write_tensors
from fbp.layers import Llama3Scaling
from fbp.models._gpt2 import gpt2
from fbp.models._llama import llama

Config = dict[str, Any]


def from_pretrained(folder: str | Path, dtype: DTypeLike | None = None) -> tuple[Layer, Params]:
    """Returns the model of a folder, whose forward gives logits, and its params.

    Reads config.json and one or several safetensors files; nothing in the folder is executed.

    Args:
      folder: of a GPT-2 or a Llama.
      dtype: of the params; as the embedding is stored by default.

    Raises:
      FolderError: what is wrong with the folder, in one line.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = read_tensors(folder)
    stored = _stored_dtype(folder, config, tensors) if dtype is None else dtype
    model = model_of(folder, config, stored)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    names = names_of(config)
    leaves = []
    for path, leaf in named_leaves(shapes).items():
        leaves.append(_read(folder, tensors, names[path], leaf))
    return model, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def save_pretrained(folder: str | Path, model: Layer, params: Params) -> None:
    """Writes a model made by `gpt2` or `llama` as a folder that `transformers` loads.

    Raises:
      ValueError: the model is not one of these, or the params are not its own.
      FolderError: a file is there already, or cannot be written.
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


def model_of(folder: Path, config: Config, dtype: DTypeLike) -> Layer:
    """The model that a config.json describes."""
    kind = config.get("model_type")
    if kind == "gpt2":
        return _gpt2(folder, config, dtype)
    if kind == "llama":
        return _llama(folder, config, dtype)
    raise FolderError(f"{folder}: expected model_type gpt2 or llama, got {kind!r}")


def _gpt2(folder: Path, config: Config, dtype: DTypeLike) -> Layer:
    for name, value in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("reorder_and_upcast_attn", False),
        ("add_cross_attention", False),
    ):
        _require(folder, config, name, value)
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise FolderError(f"{folder}: expected activation_function {expected}, got {activation!r}")
    return _built(
        folder,
        gpt2,
        vocab=expect(config, "vocab_size", int),
        context=expect(config, "n_positions", int),
        width=expect(config, "n_embd", int),
        heads=expect(config, "n_head", int),
        layers=expect(config, "n_layer", int),
        hidden=expect(config, "n_inner", int, None),
        activation=ACTIVATIONS[activation],
        eps=expect(config, "layer_norm_epsilon", float, 1e-5),
        tied=expect(config, "tie_word_embeddings", bool, True),
        dtype=dtype,
    )


def _llama(folder: Path, config: Config, dtype: DTypeLike) -> Layer:
    _require(folder, config, "hidden_act", "silu")
    # Newer folders have one object, older ones a number and an object beside it.
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {})}
    base = expect({**config, **rope}, "rope_theta", float, 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise FolderError(f"{folder}: expected rope_type default or llama3, got {kind!r}")
    scaling = None
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=expect(rope, "factor", float),
            low=expect(rope, "low_freq_factor", float),
            high=expect(rope, "high_freq_factor", float),
            context=expect(rope, "original_max_position_embeddings", int),
        )
    return _built(
        folder,
        llama,
        vocab=expect(config, "vocab_size", int),
        width=expect(config, "hidden_size", int),
        heads=expect(config, "num_attention_heads", int),
        layers=expect(config, "num_hidden_layers", int),
        hidden=expect(config, "intermediate_size", int),
        kv_heads=expect(config, "num_key_value_heads", int, None),
        head_size=expect(config, "head_dim", int, None),
        base=base,
        scaling=scaling,
        eps=expect(config, "rms_norm_eps", float, 1e-6),
        attention_bias=expect(config, "attention_bias", bool, False),
        feed_forward_bias=expect(config, "mlp_bias", bool, False),
        tied=expect(config, "tie_word_embeddings", bool, False),
        dtype=dtype,
    )


def _built(folder: Path, model: Any, **sizes: Any) -> Layer:
    for name, size in sizes.items():
        if isinstance(size, int) and not isinstance(size, bool) and size < 1:
            raise FolderError(f"{folder / CONFIG}: expected {name} of 1 or more, got {size}")
    try:
        return model(**sizes)
    except ValueError as error:
        raise FolderError(f"{folder / CONFIG}: {error}") from None


def _require(folder: Path, config: Config, name: str, value: Any) -> None:
    got = config.get(name, value)
    if got != value:
        raise FolderError(f"{folder / CONFIG}: expected {name} to be {value!r}, got {got!r}")


def _stored_dtype(folder: Path, config: Config, tensors: Mapping[str, np.ndarray]) -> Any:
    if config.get("model_type") not in ("gpt2", "llama"):
        return jnp.float32  # what it is instead is said where the model is built
    (part,) = names_of(config)["embed.w"].parts
    return _tensor(folder, tensors, part).dtype


def _read(folder: Path, tensors: Mapping[str, np.ndarray], names: Names, leaf: Any) -> Any:
    """One of our arrays, checked part by part against the shape it must have."""
    in_blocks = "{i}" in names.parts[0]
    shape = leaf.shape[1:] if in_blocks else leaf.shape
    array = np.empty(leaf.shape, leaf.dtype)
    for i in range(leaf.shape[0] if in_blocks else 1):
        start = 0
        for name, size in zip(names.parts, names.sizes or shape[-1:], strict=True):
            wanted = (*shape[:-1], size)
            tensor = _tensor(folder, tensors, name.format(i=i))
            got = tensor.shape
            there = wanted[::-1] if names.transposed else wanted
            if got != there:
                raise FolderError(
                    f"{folder}: expected {name.format(i=i)} of shape {there}, got {got}"
                )
            part = tensor.T if names.transposed else tensor
            (array[i] if in_blocks else array)[..., start : start + size] = part
            start += size
    return jnp.asarray(array)


def _tensor(folder: Path, tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    # A file of the transformer alone has no prefix.
    for there in (name, name.removeprefix("transformer.").removeprefix("model.")):
        if there in tensors:
            return tensors[there]
    raise FolderError(f"{folder}: expected a tensor {name}, got none")


def _write(names: Names, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors that one of our arrays becomes."""
    in_blocks = "{i}" in names.parts[0]
    for i, block in enumerate(array if in_blocks else [array]):
        cuts = np.cumsum(names.sizes)[:-1]
        for name, part in zip(names.parts, np.split(block, cuts, -1), strict=True):
            yield name.format(i=i), np.ascontiguousarray(part.T if names.transposed else part)


def _tree(params: Params) -> str:
    return str(sorted(named_leaves(params)))
