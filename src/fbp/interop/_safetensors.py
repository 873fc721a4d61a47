"""Reads weights from a safetensors file, or from a folder in Hugging Face's layout."""

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fbp.interop._files import FolderError, open_file, read_json, shown
from fbp.interop._header import Entry, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 100_000_000
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Tensors(Mapping[str, np.ndarray]):
    """Arrays by name, in files that are mapped into memory: an array is read when it is accessed.

    An array is a read-only view of its file. It stays valid if the file is removed or replaced, but
    not if the file is changed in place.
    """

    def __init__(self, files: Mapping[Path, list[str] | None]):
        """Takes the files, each with the names of its tensors to include; None is all."""
        self._places: dict[str, tuple[_Mapped, Entry]] = {}
        for path, wanted in files.items():
            mapped = _Mapped(path)
            for name in mapped.entries if wanted is None else wanted:
                if name not in mapped.entries:
                    raise FolderError(f"{path}: expected a tensor {shown(name)}, got none")
                self._places[name] = mapped, mapped.entries[name]

    def __getitem__(self, name: str) -> np.ndarray:
        mapped, entry = self._places[name]
        return mapped.array(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Tensors({len(self)} arrays)"


class _Mapped:
    """One safetensors file, whose header has been read and checked."""

    def __init__(self, path: Path):
        file, size = open_file(path)
        with file:
            try:
                self.entries, self._begin = read_header(str(path), file, size)
                self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            except OSError as error:
                raise FolderError(f"{path}: cannot be read: {error.strerror}") from None

    def array(self, entry: Entry) -> np.ndarray:
        return np.ndarray(entry.shape, entry.dtype, self._bytes, self._begin + entry.start)


def read_tensors(path: str | Path) -> Tensors:
    """Opens the weights at a path: a folder, a safetensors file, or an index of such files.

    In a folder they are `model.safetensors`, or the files that `model.safetensors.index.json`
    names. Every header is read and checked at once, an array when it is accessed.

    Raises:
      FolderError: there are no weights, a file is missing or damaged, or they are pickle files,
        which are not read because they can execute code.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if path.suffix == ".json":
        return Tensors(_indexed(path))
    if path.suffix in _PICKLES:
        raise _refusal(path)
    return Tensors({path: None})


def _weights_in(folder: Path) -> Path:
    for name in (SINGLE, INDEX):
        if os.path.lexists(folder / name):
            return folder / name
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise FolderError(f"{folder}: cannot be read: {error.strerror}") from None
    for name in names:
        if name.endswith(".safetensors"):
            raise FolderError(
                f"{folder}: expected {SINGLE} or {INDEX}, got {shown(name)}: give the path of the "
                "file itself"
            )
    for name in names:
        if Path(name).suffix in _PICKLES:
            raise _refusal(folder / name)
    raise FolderError(f"{folder}: expected {SINGLE} or {INDEX}, got neither")


def _refusal(path: Path) -> FolderError:
    return FolderError(
        f"{path}: pickle files are not read, because they can execute code. Where you trust it, "
        f"convert it: safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
        f"{SINGLE!r})"
    )


def _indexed(path: Path) -> dict[Path, list[str] | None]:
    """The files that an index names, each with its tensors."""
    weight_map = read_json(path, MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        got = shown(weight_map)
        raise FolderError(f"{path}: expected weight_map to be an object of file names, got {got}")
    files: dict[Path, list[str] | None] = {}
    for name, file in weight_map.items():
        if not _is_plain(file):
            raise FolderError(
                f"{path}: expected {shown(name)} to be in a safetensors file of this folder, "
                f"got {shown(file)}"
            )
        tensors = files.setdefault(path.parent / file, [])
        assert tensors is not None
        tensors.append(name)
    return files


def _is_plain(file: object) -> bool:
    """Whether it is the name of a safetensors file without a folder, on any system."""
    return (
        isinstance(file, str)
        and file.endswith(".safetensors")
        and file.isprintable()
        and not any(character in file for character in "/\\:")
    )
