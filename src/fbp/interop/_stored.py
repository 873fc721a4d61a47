"""What the tensors of a folder must be: plain floats, and all of them a model's own."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fbp.interop._files import FolderError, shown
from fbp.interop._names import Names

# Tables that older versions of PyTorch's models saved: they follow from the config.
_TABLES = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_HEAD, _EMBED = "lm_head.weight", "embed.w"


def spellings(name: str) -> tuple[str, ...]:
    """A tensor's name, and that in files of the transformer without its head."""
    return name, name.removeprefix("transformer.").removeprefix("model.")


def require_plain(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises FolderError unless tensors are floats of two bytes or more, or tables.

    Smaller ones are multiples of scales that are stored elsewhere.
    """
    for name in tensors:
        dtype = tensors[name].dtype
        if name.endswith(_TABLES):
            continue
        if not jnp.issubdtype(dtype, jnp.floating):
            raise FolderError(f"{folder}: expected {name} of floats, got {dtype}")
        if dtype.itemsize < 2:
            raise FolderError(
                f"{folder}: expected weights that are not quantized, got {name} of {dtype}: save "
                "the model dequantized, or take its folder in bfloat16"
            )


def require_all_used(
    folder: Path, tensors: Mapping[str, np.ndarray], names: Mapping[str, Names], layers: int
) -> None:
    """Raises FolderError if there are tensors that the model has no place for.

    They could be scales of the weights, or layers that config.json does not speak of: without them
    the model would be another one.
    """
    used = set()
    for path in names:
        for part in names[path].parts:
            used |= set(spellings(part))
    left = []
    for name in tensors:
        if _general(name, layers) not in used and not name.endswith(_TABLES):
            left.append(name)
    if _HEAD in left and "unembed.w" not in names:
        left.remove(_HEAD)
        _require_tied(folder, tensors, names[_EMBED].parts[0])
    if left:
        others = f" and {len(left) - 1} others" if len(left) > 1 else ""
        raise FolderError(
            f"{folder}: expected only the tensors that config.json describes, got "
            f"{shown(left[0])}{others}"
        )


def _general(name: str, layers: int) -> str:
    """A name with `{i}` in the place of a block's number, if there is such a block."""
    parts = name.split(".")
    for i, (before, part) in enumerate(itertools.pairwise(parts), 1):
        if before in ("h", "layers") and part.isdecimal() and int(part) < layers:
            parts[i] = "{i}"
            break
    return ".".join(parts)


def _require_tied(folder: Path, tensors: Mapping[str, np.ndarray], embed: str) -> None:
    """Raises unless the head that is stored too is the embedding, as the config says."""
    for name in spellings(embed):
        if name in tensors and not np.array_equal(tensors[name], tensors[_HEAD]):
            raise FolderError(
                f"{folder}: expected {_HEAD} to be {name}, since tie_word_embeddings is true, got "
                "another array"
            )


def stored_dtype(folder: Path, tensors: Mapping[str, np.ndarray]) -> np.dtype:
    """The smallest dtype that holds every tensor as it is.

    Raises:
      FolderError: there is none.
    """
    if not tensors:
        raise FolderError(f"{folder}: expected safetensors files with tensors, got none")
    found = {tensors[name].dtype for name in tensors if not name.endswith(_TABLES)}
    return np.dtype(jnp.result_type(*found)) if len(found) > 1 else found.pop()
