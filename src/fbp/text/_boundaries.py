"""Where the documents among tokens end."""

from collections.abc import Iterable, Sequence

import numpy as np

from fbp._errors import InputError
from fbp.text._marks import Marks

# Tokens looked at together: they may be memory-mapped.
_PART = 2**22


def joined(
    documents: Iterable[np.ndarray], marks: Marks, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """The documents one after another, each between its marks, and where each ends (D,)."""
    parts = [marks.around(ids).astype(dtype) for ids in documents]
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype)
    return ids, np.cumsum([len(part) for part in parts], dtype=np.int64)


def ends_by_marks(parts: Sequence[np.ndarray], marks: Marks, source: str) -> list[np.ndarray]:
    """Where the documents of each part of a file of tokens end: after each mark of an end, or
    before each of a beginning where no mark is of an end.

    Raises:
      InputError: the tokenizer has no such mark, or the parts have none.
    """
    mark = marks.end if marks.end is not None else next(iter(marks.begin), None)
    if mark is None:
        raise InputError(
            f"{source}: expected a tokenizer that marks where a document ends, which tokens alone "
            "do not say: name theirs by --tokenizer FOLDER"
        )
    found = [_places(ids, mark) for ids in parts]
    if not any(map(len, found)):
        does = "end" if marks.end is not None else "begin"
        raise InputError(
            f"{source}: expected documents that {does} with the token {mark}, got none"
        )
    after = 1 if marks.end is not None else 0
    pairs = zip(found, parts, strict=True)
    return [np.unique(np.append((at + after)[at + after > 0], len(ids))) for at, ids in pairs]


def _places(ids: np.ndarray, mark: int) -> np.ndarray:
    """Where ids, which may be memory-mapped, are the mark."""
    starts = range(0, len(ids), _PART)
    found = [i + np.flatnonzero(np.asarray(ids[i : i + _PART]) == mark) for i in starts]
    return np.concatenate(found) if found else np.zeros(0, np.int64)
