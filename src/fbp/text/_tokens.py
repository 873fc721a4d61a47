"""Files of token ids, which are mapped into memory."""

from pathlib import Path

import numpy as np

from fbp._errors import InputError


def dtype_for(vocab: int) -> np.dtype:
    """The smallest unsigned dtype that holds the ids of a vocabulary."""
    return np.min_scalar_type(max(vocab - 1, 0))


def write_tokens(path: str | Path, ids: np.ndarray, vocab: int) -> None:
    """Writes ids (T,) as a .npy file, in the smallest unsigned dtype that holds the vocabulary.

    Raises:
      InputError: an id is outside 0..vocab-1; the path does not end in .npy, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(f"{path}: expected a file named .npy")
    require_ids(ids, vocab, str(path))
    try:
        np.save(path, np.asarray(ids, dtype_for(vocab)), allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def open_tokens(path: str | Path) -> np.ndarray:
    """Maps a file of ids (T,) into memory: a part of it is read when it is accessed.

    Raises:
      InputError: there is no such file, or it does not hold ids.
    """
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path}: expected a .npy file of token ids") from None
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind != "u":
        raise InputError(f"{path}: expected unsigned integers (T,)")
    return ids


def require_ids(ids: np.ndarray, vocab: int, source: str) -> None:
    """Raises InputError unless ids are integers (T,) in 0..vocab-1."""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"{source}: expected integers (T,), got {ids.dtype}{ids.shape}")
    if len(ids) and (wrong := ids[(ids < 0) | (ids >= vocab)]).size:
        raise InputError(f"{source}: expected ids in 0..{vocab - 1}, got {wrong[0]}")
