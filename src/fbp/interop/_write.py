"""Writes weights in Hugging Face's layout."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fbp.interop._files import FolderError, shown
from fbp.interop._header import DTYPES, LENGTH, METADATA
from fbp.interop._safetensors import INDEX, SINGLE

_CODES = {dtype.name: code for code, dtype in DTYPES.items()}


def write_tensors(
    folder: str | Path, tensors: Mapping[str, Any], max_bytes_per_file: int = 5_000_000_000
) -> None:
    """Writes arrays into a folder as safetensors: all or none, and without overwriting a file.

    They go into `model.safetensors`, or if that would be too large into
    `model-00001-of-00002.safetensors` and so on, with `model.safetensors.index.json` as the index.
    Everything is first written into a temporary folder, then renamed, the index last.

    Args:
      folder: the folder to write to; it is made if it does not exist.
      tensors: NumPy or JAX arrays by name. They are copied to the host one at a time.
      max_bytes_per_file: the limit for the arrays of one file; a larger array has a file to itself.

    Raises:
      FolderError: the folder has weights already, or cannot be written to.
      TypeError: the format does not have an array's dtype, or a name is not a string.
      ValueError: max_bytes_per_file is not positive, or a name is reserved by the format.
    """
    if max_bytes_per_file < 1:
        got = max_bytes_per_file
        raise ValueError(f"write_tensors: expected max_bytes_per_file to be 1 or more, got {got}")
    for name, array in tensors.items():
        _require_writable(name, array)
    folder = Path(folder)
    files = _plan(tensors, max_bytes_per_file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SINGLE, INDEX, *files):
            if os.path.lexists(folder / name):
                raise FolderError(f"{folder / name} is there already and is kept: choose another")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            for name, part in files.items():
                _write_file(Path(partial, name), {n: tensors[n] for n in part})
            names = list(files)
            if SINGLE not in files:
                names.append(INDEX)
                Path(partial, INDEX).write_text(_index(files, tensors), encoding="utf-8")
            _publish(Path(partial), folder, names)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written: {error.strerror}") from None


def _require_writable(name: Any, array: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"write_tensors: expected names to be texts, got {shown(name)}")
    if name == METADATA:
        raise ValueError(f"write_tensors: expected a name other than {METADATA!r}")
    dtype = str(getattr(array, "dtype", type(array).__name__))
    if not (hasattr(array, "dtype") and np.dtype(array.dtype).name in _CODES):
        known = ", ".join(_CODES)
        raise TypeError(
            f"write_tensors: expected {shown(name)} to be an array of {known}, got {dtype}"
        )


def _plan(tensors: Mapping[str, Any], limit: int) -> dict[str, list[str]]:
    """The names in each file, in the order given."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, array in tensors.items():
        if parts[-1] and size + array.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += array.nbytes
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    n = len(parts)
    return {f"model-{i:05}-of-{n:05}.safetensors": part for i, part in enumerate(parts, 1)}


def _write_file(path: Path, tensors: dict[str, Any]) -> None:
    with open(path, "xb") as file:
        for piece in pieces_of(tensors):
            file.write(piece)


def pieces_of(tensors: Mapping[str, Any]) -> Iterator[Any]:
    """The bytes of a safetensors file, in pieces: its header, then one array after another."""
    # The largest elements first, so that every array begins at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    # transformers refuses a file whose metadata does not name a format.
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    start = 0
    for name in names:
        array = tensors[name]
        code, stop = _CODES[np.dtype(array.dtype).name], start + array.nbytes
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH)
    yield len(text).to_bytes(LENGTH, "little") + text
    for name in names:
        dtype = DTYPES[header[name]["dtype"]]
        array = np.asarray(tensors[name], dtype, order="C")
        yield array.reshape(-1).view(np.uint8).data


def _index(files: dict[str, list[str]], tensors: Mapping[str, Any]) -> str:
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in tensors.values())},
        "weight_map": {name: file for file, part in files.items() for name in part},
    }
    return json.dumps(index, indent=2, ensure_ascii=False) + "\n"


def _publish(partial: Path, folder: Path, names: list[str]) -> None:
    """Moves the files into the folder; if a name has been taken meanwhile, none of them."""
    done: list[Path] = []
    try:
        for name in names:
            # Renaming would overwrite a file. Creating it first fails if the name is taken.
            with open(folder / name, "xb"):
                done.append(folder / name)
            os.replace(partial / name, folder / name)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise
