"""Reads the header of a safetensors file: which tensors it holds, and where.

    8 bytes    n, the length of the header, an unsigned little-endian integer
    n bytes    the header, JSON: {"name": {"dtype": "F32", "shape": [2, 3],
                                           "data_offsets": [0, 24]}, ...}
    the rest   the data: the tensors' bytes, one after another without gaps

Source: https://github.com/huggingface/safetensors, "Format".
"""

import dataclasses
import math
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from fbp.interop._files import FolderError, parse_json, shown

MAX_HEADER = 100_000_000  # the format's own limit
METADATA = "__metadata__"
LENGTH = 8

# The NumPy dtype for each name of the format, except those of less than a byte, which have none.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("<c8"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file: its bytes are those from `start` to `stop` of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(source: str, file: BinaryIO, size: int) -> tuple[dict[str, Entry], int]:
    """Reads and checks the header of a file of `size` bytes.

    Nothing in the file is trusted: the returned tensors lie within the file, and fill its data
    exactly.

    Returns:
      The tensors by name, and where in the file the data begins.

    Raises:
      FolderError: the file is not a complete safetensors file.
    """
    if size < LENGTH:
        raise FolderError(f"{source}: expected a safetensors file, got {size} bytes")
    length = int.from_bytes(file.read(LENGTH), "little")
    if length > MAX_HEADER:
        raise FolderError(
            f"{source}: expected a header of at most {MAX_HEADER:,} bytes, got {length:,}: "
            "the file is damaged or not a safetensors file"
        )
    if length > size - LENGTH:
        raise FolderError(
            f"{source}: expected a header of {length:,} bytes, got {size - LENGTH:,}: "
            "the file is cut short or not a safetensors file"
        )
    header = parse_json(f"{source}: the header", file.read(length))
    _require_metadata(source, header.pop(METADATA, {}))
    entries = {name: _entry(source, name, value) for name, value in header.items()}
    _require_filled(source, entries, size - LENGTH - length)
    return entries, LENGTH + length


def _require_metadata(source: str, metadata: Any) -> None:
    good = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not good:
        got = shown(metadata)
        raise FolderError(f"{source}: expected {METADATA} to be an object of texts, got {got}")


def _entry(source: str, name: str, value: Any) -> Entry:
    tensor = f"{source}: tensor {shown(name)}"
    if not (isinstance(value, dict) and {"dtype", "shape", "data_offsets"} <= set(value)):
        raise FolderError(f"{tensor}: expected dtype, shape and data_offsets, got {shown(value)}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not (isinstance(code, str) and code in DTYPES):
        known = ", ".join(DTYPES)
        raise FolderError(f"{tensor}: expected dtype to be one of {known}, got {shown(code)}")
    if not _are_counts(shape):
        raise FolderError(f"{tensor}: expected shape to be a list of sizes, got {shown(shape)}")
    if not (_are_counts(offsets) and len(offsets) == 2):
        got = shown(offsets)
        raise FolderError(f"{tensor}: expected data_offsets to be two positions, got {got}")
    (start, stop), dtype = offsets, DTYPES[code]
    # With a size of 0 there are no bytes, but NumPy limits the other sizes all the same.
    if len(shape) > 64 or math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
        raise FolderError(f"{tensor}: expected a shape that an array can have, got {shown(shape)}")
    needed = math.prod(shape) * dtype.itemsize
    if stop - start != needed:
        raise FolderError(
            f"{tensor}: expected data_offsets {needed:,} bytes apart for {code}{shape!r:.80}, "
            f"got {shown(offsets)}"
        )
    return Entry(dtype, tuple(shape), start, stop)


def _are_counts(value: Any) -> bool:
    """Whether a value is a list of integers of 0 or more; a bool, which is an int, is not one."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _require_filled(source: str, entries: dict[str, Entry], size: int) -> None:
    """Raises unless the tensors lie one after another and fill the data."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop))
    ends = [0, *(entry.stop for _, entry in ordered)]
    for (name, entry), end in zip(ordered, ends, strict=False):
        if entry.start != end:
            what = "overlap" if entry.start < end else "leave a hole"
            raise FolderError(
                f"{source}: tensor {shown(name)}: expected data_offsets from {end:,}, where the "
                f"tensor before it ends, got {entry.start:,}: the two {what}"
            )
    if ends[-1] != size:
        raise FolderError(
            f"{source}: expected {ends[-1]:,} bytes of data, got {size:,}: "
            f"the file {'is cut short' if ends[-1] > size else 'has more than its tensors'}"
        )
