"""What integers and masks that were given are, and so have to be in every probe.

Labels and indices may be any numbers. But an order of n things that some argument has is a
permutation, rows with a single 1 are one-hot, and integers that ascend, such as the numbers of
segments, may have to.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.program._dtypes import is_float, is_key

# Fewer labels or indices than this ascend, or are a permutation, by chance.
_LEAST = 4


def kinds(values: Sequence[Any]) -> dict[int, str]:
    """The leaves that hold "a permutation", a "one-hot" array or "ascending" integers."""
    lengths = {n for v in values if not is_key(v) and is_float(v) for n in v.shape}
    found = {}
    for i, v in enumerate(values):
        if is_key(v) or is_float(v) or not v.size:
            continue
        a = np.asarray(v)
        if _is_one_hot(a):
            found[i] = "one-hot"
        elif a.ndim and a.shape[-1] >= _LEAST and a.dtype.kind == "i":
            if (np.diff(a) >= 0).all() and a.ndim == 1:
                found[i] = "ascending"
            elif a.shape[-1] in lengths and (np.sort(a) == np.arange(a.shape[-1])).all():
                found[i] = "a permutation"
    return found


def partners(values: Sequence[Any], found: dict[int, str]) -> Iterator[tuple[int, int, bool]]:
    """The permutations that an earlier one determines: (the later, the earlier, is its inverse)."""
    each = [i for i, kind in found.items() if kind == "a permutation"]
    for n, i in enumerate(each):
        for j in each[:n]:
            a, b = np.asarray(values[i]), np.asarray(values[j])
            if a.shape == b.shape and ((a == b).all() or (a == np.argsort(b)).all()):
                yield i, j, not (a == b).all()
                break


def redrawn(rng: np.random.Generator, how: str, kind: str, a: np.ndarray) -> np.ndarray | None:
    """Another array of a kind; `a` itself if it would be none; None if any array will do.

    Args:
      rng: the source of random numbers.
      how: the change that is wanted: see `_draws.changed`.
      kind: what `a` is.
      a: integers or a mask.
    """
    if kind == "a permutation":
        return rng.permuted(a, axis=-1) if how in ("shuffle", "any") else a
    if kind == "one-hot" and how in ("shuffle", "any", "repeat"):
        return rng.permutation(a) if how == "shuffle" else rng.permuted(a, axis=-1)
    if kind == "one-hot":
        return a
    if how == "shuffle":
        return a
    return None


def _is_one_hot(a: np.ndarray) -> bool:
    if a.ndim < 2 or a.shape[-1] < 3 or a.dtype.kind not in "bi":
        return False
    return bool(((a == 0) | (a == 1)).all() and (a.sum(-1) == 1).all())
