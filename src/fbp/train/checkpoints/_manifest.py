"""The manifest of a checkpoint: what it is, and the sums of its files and of itself."""

import hashlib
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import fbp
from fbp._errors import InputError
from fbp.interop._files import FolderError, parse_json

FORMAT = 1
SUM = "sha256"


def versions() -> dict[str, str]:
    """Those that the numbers of a run may depend on."""
    return {
        "fbp": fbp.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
    }


def of_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The size and the SHA-256 of those of the files that are there."""
    found = {}
    for name in names:
        path = folder / name
        if path.exists():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def to_bytes(content: dict[str, Any]) -> bytes:
    """A manifest as the bytes of its file, with the SHA-256 of its content as the last entry."""
    content = {"format": FORMAT, **content}
    return _written({**content, SUM: hashlib.sha256(_written(content)).hexdigest()})


def from_bytes(source: str, data: bytes) -> dict[str, Any]:
    """The content of a manifest.

    Raises:
      InputError: a byte of it is not as it was written, or it is of another format.
    """
    try:
        content = parse_json(source, data)
    except FolderError as error:
        raise InputError(f"{error}: damaged") from None
    given = content.pop(SUM, None)
    found = hashlib.sha256(_written(content)).hexdigest()
    # Written again it must be the same bytes: a changed space would not change the content.
    if given != found or _written({**content, SUM: given}) != data:
        raise InputError(f"{source}: damaged: its SHA-256 is not that of its content")
    if content.get("format") != FORMAT:
        raise InputError(f"{source}: expected format {FORMAT}, got {content.get('format')!r}")
    return content


def _written(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
