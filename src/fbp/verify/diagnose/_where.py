"""Describes where a gradient is wrong: rows, elements, a condition on an array of the scene."""

import re
from collections.abc import Iterator

import numpy as np

from fbp.verify.diagnose._scene import Scene, spread_over


def _wrong(s: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Masks: where the gradient is wrong, and where it is wrong or the reference is not zero."""
    scale = max(np.abs(s.want).max(), np.abs(s.got).max())
    wrong = np.abs(s.got - s.want) > 1e-9 * scale
    tells = wrong | (np.abs(s.want) > 1e-9 * scale)
    return wrong, tells


def subset(s: Scene) -> Iterator[tuple[str, str]]:
    """Triangles, and rows in one piece, that are wrong."""
    wrong, tells = _wrong(s)
    yield from _triangle(s, wrong, tells)
    yield from (("subset", text) for in_one_piece, text in _rows(s, wrong, tells) if in_one_piece)
    if wrong.sum() == 1 and wrong.size > 2:
        yield "subset", f"wrong in one element only: {list(map(int, np.argwhere(wrong)[0]))}"


def scattered(s: Scene) -> Iterator[tuple[str, str]]:
    """Wrong rows here and there."""
    yield from (("subset", text) for in_one_piece, text in _rows(s, *_wrong(s)) if not in_one_piece)


def _rows(s: Scene, wrong: np.ndarray, tells: np.ndarray) -> Iterator[tuple[bool, str]]:
    """Wrong rows along an axis: whether they are in one piece or at the edges, and a text."""
    for axis, n in enumerate(s.want.shape):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        bad = wrong.any(others)
        told = tells.any(others)
        if not bad.any() or (bad | ~told).all() or n < 2:
            continue
        rows = np.flatnonzero(bad)
        right = np.flatnonzero(told & ~bad)
        gone = np.abs(s.got.swapaxes(0, axis)[rows]).max() == 0
        how = "zero" if gone else "wrong"
        run = bool((np.diff(rows) == 1).all())
        if len(right) == 1 and n > 2:
            only = "first" if right[0] == 0 else "last" if right[0] == n - 1 else f"{right[0]}"
            yield right[0] in (0, n - 1), f"along axis {axis} {how} everywhere but at the {only}"
        elif len(rows) <= max(3, n // 4):
            which = {0: "first", n - 1: "last"}
            named = ", ".join(which.get(int(r), str(r)) for r in rows[:6])
            text = f"along axis {axis} {how} at the {named} only (row {rows[0]} of {n})"
            yield run or {*rows} <= {0, n - 1}, text
        else:
            place = f"{rows[0]} to {rows[-1]}" if run else f"{len(rows)} of {n} rows"
            edge = " (the last)" if rows[-1] == n - 1 else " (the first)" if rows[0] == 0 else ""
            yield run, f"along axis {axis} {how} at {place}{edge}, right elsewhere"


def _triangle(s: Scene, wrong: np.ndarray, tells: np.ndarray) -> Iterator[tuple[str, str]]:
    """Wrong on the diagonal of square matrices only, or off it, above it or below it."""
    if s.want.ndim < 2 or s.want.shape[-1] != s.want.shape[-2] or wrong.sum() < 2:
        return
    row, column = np.indices(s.want.shape)[-2:]
    for where, says in (
        *((row == column, "on the diagonal"), (row < column, "above the diagonal")),
        *((row > column, "below the diagonal"), (row != column, "off the diagonal")),
    ):
        right = tells & ~wrong
        if right.any() and not (wrong & ~where).any() and not (right & where).any():
            yield "subset", f"wrong {says} only"


def mask(s: Scene) -> Iterator[tuple[str, str]]:
    """A condition on the arguments or the outputs that separates wrong from right elements."""
    wrong, tells = _wrong(s)
    if not wrong.any() or not (tells & ~wrong).any():
        return
    found: list[tuple[bool, bool, int, int, str]] = []
    for says, true, decided in _conditions(s):
        if decided[wrong].all() and true.any() and _separates(wrong, tells, true, decided):
            of_output = re.search(r"where \|?y[0-9]*\|? ", says) is not None
            found.append((of_output, "|" in says, int(true.sum()), len(found), says))
    # One side before both, the narrowest first; an argument says more than an output.
    yield from (("mask", says) for *_, says in sorted(found))


def holds(s: Scene, condition: str) -> bool:
    """Whether a condition that `mask` found in one scene is not contradicted in this one."""
    wrong, tells = _wrong(s)
    return any(
        says == condition and _separates(wrong, tells, true, decided)
        for says, true, decided in _conditions(s)
    )


def _separates(wrong: np.ndarray, tells: np.ndarray, true: np.ndarray, decided: np.ndarray) -> bool:
    return not ((wrong & ~true) | (tells & ~wrong & true))[decided].any()


def _conditions(s: Scene) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Simple conditions: what they say, where they are true, and where they are decided.

    Nothing is decided by a comparison of floats that are equal: the rule may include its bound.
    """
    points = dict.fromkeys([0.0, *s.thresholds, *(-t for t in s.thresholds)])
    for name in s.given:
        array = s.arrays.get(name)
        if array is None or np.iscomplexobj(array):
            continue
        for a in spread_over(array, s.want.shape):
            for t in points:
                always = np.ones(a.shape, bool)
                yield f"wrong only where {name} == {t:.4g} (a tie or a kink)", a == t, always
                yield f"wrong only where {name} < {t:.4g}", a < t, a != t
                yield f"wrong only where {name} > {t:.4g}", a > t, a != t
                if t > 0:
                    size = np.abs(a)
                    yield f"wrong only where |{name}| < {t:.4g}", size < t, size != t
                    yield f"wrong only where |{name}| > {t:.4g}", size > t, size != t
    for name, array in s.integers.items():
        for a in spread_over(array, s.want.shape):
            always = np.ones(a.shape, bool)
            if a.dtype == bool:
                yield f"wrong only where {name} == True", a, always
                yield f"wrong only where {name} == False", ~a, always
                continue
            yield f"wrong only where {name} == 0", a == 0, always
            yield f"wrong only where {name} < 0", a < 0, always
            for axis in range(a.ndim):
                place = np.indices(a.shape)[axis]
                if (a != a.take([0], axis)).any():
                    continue  # it differs along this axis: it is no length of it
                yield f"wrong only beyond {name} along axis {axis}", place >= a, always
                yield f"wrong only before {name} along axis {axis}", place < a, always
        if array.dtype == bool and array.ndim:
            for a in spread_over(array, s.want.shape):
                none = np.broadcast_to(~a.any(-1, keepdims=True), a.shape)
                says = f"wrong only in the rows where {name} is false everywhere"
                yield says, none, np.ones(a.shape, bool)


def rows_of_integers(s: Scene) -> Iterator[tuple[str, str]]:
    """Wrong rows of a table that are the rows of repeated, negative or zero indices."""
    wrong, tells = _wrong(s)
    if s.want.ndim < 1:
        return
    for axis, n in enumerate(s.want.shape):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        bad, told = wrong.any(others), tells.any(others)
        for name, ids in s.integers.items():
            if ids.dtype == bool or not ids.size or ids.max() >= n:
                continue
            plain = ids[ids >= 0]
            counts = np.bincount(plain.ravel().astype(int), minlength=n)
            negative = np.zeros(n, bool)
            negative[ids[(ids < 0) & (ids >= -n)].astype(int)] = True
            often = counts > 1
            if often.any() and bad.any() and not (bad & ~often).any() and (told & ~bad).any():
                yield "mask", f"wrong only in rows that {name} names more than once (duplicate)"
            if negative.any() and bad.any() and not (bad & ~negative).any():
                yield "mask", f"wrong where {name} < 0: a negative index"
            zero = np.zeros(n, bool)
            zero[0] = True
            if bad.any() and (bad == zero).all():
                yield "mask", f"wrong only in row 0, the row of {name} == 0 (padding)"
