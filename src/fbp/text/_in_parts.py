"""Encodes a long text in parts, as the whole would be encoded."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

# Characters in a part, and those around it that are encoded too, so that the tokens at its ends are
# those of the whole text.
PART, AROUND = 2**16, 512
# Parts that the package encodes at once, on all cores.
_AT_ONCE = 32
_LINE = re.compile(r"\n(?=\S)")


def encode_in_parts(
    inner: Any, text: str, told: Callable[[int], None] | None = None
) -> np.ndarray | None:
    """The ids of a text, (T,); None if its parts do not fit together.

    `told`, if given, is called with the number of characters that are done.

    A tokenizer of the package `tokenizers` takes 150 bytes a character of a text, and some take a
    time that grows faster than its length. So the text is cut where lines begin, and each part is
    encoded with what stands around it. Two parts that meet have encoded the same characters around
    the cut, and must have made the same tokens of them.
    """
    cuts = [0]
    while len(text) - cuts[-1] > 2 * PART:
        line = _LINE.search(text, cuts[-1] + PART)
        if line is None:
            break
        cuts.append(line.end())
    cuts.append(len(text))
    spans = list(itertools.pairwise(cuts))
    found: list[np.ndarray] = []
    after: list[tuple[int, int]] = []
    for i in range(0, len(spans), _AT_ONCE):
        some = spans[i : i + _AT_ONCE]
        first = [max(0, start - AROUND) for start, _ in some]
        parts = [text[lo : stop + AROUND] for lo, (_, stop) in zip(first, some, strict=True)]
        encoded = inner.encode_batch(parts, add_special_tokens=False)
        for lo, (start, stop), one in zip(first, some, encoded, strict=True):
            ids = np.array(one.ids, np.int32)
            at = np.array([begin for begin, _ in one.offsets], np.int64).reshape(-1) + lo
            ends = np.array([end for _, end in one.offsets], np.int64).reshape(-1) + lo
            if (ends[at < start] > start).any() or (ends[at < stop] > stop).any():
                return None  # a token lies across the cut
            if after and after != _tokens(ids, at, start):
                return None
            found.append(ids[(at >= start) & (at < stop)])
            after = _tokens(ids, at, stop)
        if told is not None:
            told(some[-1][1])
    return np.concatenate(found)


def _tokens(ids: np.ndarray, at: np.ndarray, start: int) -> list[tuple[int, int]]:
    """The tokens after a cut, with their places, without those at the end of what is around it."""
    near = (at >= start) & (at < start + AROUND // 2)
    return list(zip(at[near].tolist(), ids[near].tolist(), strict=True))
