"""Tokens kept for the next run on the same text, in `.tokens/` beside the runs."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fbp._errors import InputError
from fbp.text import FileTokenizer, Tokenizer, open_tokens
from fbp.train.checkpoints._disk import PARTIAL, remove_quietly, sync_folder, write_durably

FOLDER = ".tokens"
# Of what a key means and a file holds; another number makes all of it anew.
FORMAT = 1
# The files that stay: those used last, as two of a text, and so many bytes at most.
KEPT, MOST_BYTES = 8, 2**33
# A text of this many characters takes a third of a second to encode; a shorter one is not kept.
LEAST = 2**18
_PIECE = 2**20
_DAY = 86400


def kept_tokens(
    folder: Path | None, tokenizer: Tokenizer, texts: Sequence[str], make: Callable[[], np.ndarray]
) -> tuple[np.ndarray, Path | None]:
    """The tokens of texts, and the file they were read from if another run has made them.

    A file is named `<key>-<sum>.npy`: a hash of texts and tokenizer, and the SHA-256 of what it
    holds. One that is not as its name says is removed and made anew. What cannot be written is not
    kept. Bytes and characters are encoded as fast as they are read, and are not kept either.
    """
    is_slow = isinstance(tokenizer, FileTokenizer) and sum(map(len, texts)) >= LEAST
    if folder is None or not is_slow:
        return make(), None
    key = _key_of(tokenizer, texts)
    found = _read(folder, key)
    if found is not None:
        return found
    ids = make()
    with contextlib.suppress(OSError, InputError):
        ids = open_tokens(_write(folder, key, ids))
    return ids, None


def abandon(folder: Path) -> None:
    """Removes what this process has written in part: it is about to be ended."""
    for path in folder.glob(f"{PARTIAL}*-{os.getpid()}"):
        remove_quietly(path)
    with contextlib.suppress(OSError):
        folder.rmdir()  # if nothing else is in it


def _key_of(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    version = importlib.metadata.version("tokenizers")
    digest = hashlib.sha256(json.dumps([FORMAT, version, tokenizer.to_json()]).encode())
    for text in texts:
        digest.update(f"{len(text)} ".encode())
        for i in range(0, len(text), _PIECE):
            digest.update(text[i : i + _PIECE].encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _read(folder: Path, key: str) -> tuple[np.ndarray, Path] | None:
    for path in folder.glob(f"{key}-*.npy"):
        with contextlib.suppress(OSError, InputError):
            with open(path, "rb") as file:
                there = hashlib.file_digest(file, "sha256").hexdigest()
            if path.stem == f"{key}-{there}":
                with contextlib.suppress(OSError):
                    os.utime(path)  # used last
                return open_tokens(path), path
        remove_quietly(path)
    return None


def _write(folder: Path, key: str, ids: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 4 * ids.nbytes:
        raise InputError("too little is free to keep tokens besides what the run itself needs")
    partial = folder / f"{PARTIAL}{key}-{os.getpid()}"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(ids))
    try:
        written = write_durably(partial, [head.getvalue(), ids.view(np.uint8).data])
        path = folder / f"{key}-{written['sha256']}.npy"
        os.replace(partial, path)
    finally:
        remove_quietly(partial)
    sync_folder(folder)
    _tidy(folder)
    return path


def _tidy(folder: Path) -> None:
    """Removes all but the files used last, and what processes that were killed have left."""
    now, left = time.time(), MOST_BYTES
    whole = [(path.stat(), path) for path in folder.glob("*.npy")]
    for i, (stat, path) in enumerate(sorted(whole, key=lambda one: -one[0].st_mtime)):
        left -= stat.st_size
        if i >= KEPT or (i and left < 0):
            remove_quietly(path)
    for path in folder.glob(f"{PARTIAL}*"):
        if now - path.stat().st_mtime > _DAY:
            remove_quietly(path)
