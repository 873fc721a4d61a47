"""Describes where a gradient is wrong: rows, elements, a condition on an array of the scene."""

from collections.abc import Iterator

import numpy as np

from fbp.verify.diagnose._scene import Scene


def _wrong(s: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Masks: where the gradient is wrong, and where it is wrong or the reference is not zero."""
    scale = max(np.abs(s.want).max(), np.abs(s.got).max())
    wrong = np.abs(s.got - s.want) > 1e-9 * scale
    tells = wrong | (np.abs(s.want) > 1e-9 * scale)
    return wrong, tells


def subset(s: Scene) -> Iterator[tuple[str, str]]:
    wrong, tells = _wrong(s)
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
        if len(right) == 1 and n > 2:
            only = "first" if right[0] == 0 else "last" if right[0] == n - 1 else f"{right[0]}"
            yield "subset", f"along axis {axis} {how} everywhere but at the {only}"
        elif len(rows) <= max(3, n // 4):
            which = {0: "first", n - 1: "last"}
            named = ", ".join(which.get(int(r), str(r)) for r in rows[:6])
            yield "subset", f"along axis {axis} {how} at the {named} only (row {rows[0]} of {n})"
        else:
            run = bool((np.diff(rows) == 1).all())
            place = f"{rows[0]} to {rows[-1]}" if run else f"{len(rows)} of {n} rows"
            edge = " (the last)" if rows[-1] == n - 1 else " (the first)" if rows[0] == 0 else ""
            yield "subset", f"along axis {axis} {how} at {place}{edge}, right elsewhere"
    share = wrong.sum() / max(1, tells.sum())
    if wrong.sum() == 1 and wrong.size > 2:
        yield "subset", f"wrong in one element only: {list(map(int, np.argwhere(wrong)[0]))}"
    elif s.want.ndim >= 2 and s.want.shape[-1] == s.want.shape[-2] and share < 1:
        square = np.broadcast_to(np.eye(s.want.shape[-1], dtype=bool), s.want.shape)
        for where, says in ((square, "on the diagonal"), (~square, "off the diagonal")):
            if not (wrong & ~where).any() and not (tells & where & ~wrong).any():
                yield "subset", f"wrong {says} only"


def mask(s: Scene) -> Iterator[tuple[str, str]]:
    """A condition on an array of the scene that separates wrong from right elements."""
    wrong, tells = _wrong(s)
    right = tells & ~wrong
    if not wrong.any() or not right.any():
        return
    for name, array in s.arrays.items():
        if array.shape != s.want.shape or np.iscomplexobj(array):
            continue
        for says, c in ((name, array), (f"|{name}|", np.abs(array))):
            low, high = c[wrong], c[right]
            for below, above, relation in ((low, high, "<"), (high, low, ">")):
                if below.max() < above.min():
                    at = _between(below.max(), above.min(), s.thresholds)
                    # Wrong where something is not 0 is wrong everywhere.
                    if at is not None and not (at == 0 and says[0] == "|" and relation == ">"):
                        yield "mask", f"wrong only where {says} {relation} {at:.4g}"
                    break
            else:
                values = np.unique(low)
                if len(values) == 1 and not (high == values[0]).any():
                    yield "mask", f"wrong only where {says} == {values[0]:.4g} (a tie or a kink)"
    for name, array in s.integers.items():
        for view in _spread_over(array, s.want.shape):
            bad, good = np.unique(view[wrong]), np.unique(view[right])
            if not np.intersect1d(bad, good).size and len(bad) <= 3:
                yield "mask", f"wrong only where {name} == {', '.join(map(str, bad))}"


def _between(low: float, high: float, thresholds: list[float]) -> float | None:
    """0 or a constant of the program that lies between two numbers; None where there is none."""
    inside = (t for t in (0.0, *thresholds, *(-t for t in thresholds)) if low <= t <= high)
    return next(inside, None)


def _spread_over(a: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for start in range(len(shape) - a.ndim + 1):
        if shape[start : start + a.ndim] == a.shape and a.ndim:
            tail = (1,) * (len(shape) - start - a.ndim)
            yield np.broadcast_to(a.reshape(a.shape + tail), shape)


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
