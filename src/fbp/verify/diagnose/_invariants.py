"""Tests invariants of every gradient: it is linear in the cotangents and uses all their rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.diagnose._scene import CLOSE, close
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._numbers import largest
from fbp.verify.rule._runs import Runs

# Each row of an axis costs one run, so longer axes of a cotangent are not tested row by row.
_MOST_ROWS = 16


def nonlinear(
    runs: Runs, values: Sequence[Any], dys: Sequence[np.ndarray], ks: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Leaves whose gradient is not linear in the cotangents, each with a text that says why."""

    def at(factor: float) -> list[np.ndarray]:
        return runs.exact(values, [factor * d for d in dys]).rule_grads

    zero, one, two, three, minus = (at(factor) for factor in (0.0, 1.0, 2.0, 3.0, -1.0))
    rng = np.random.default_rng(0)
    some = [d * (rng.random(d.shape) < 0.5) for d in dys]
    rest = [d - s for d, s in zip(dys, some, strict=True)]
    parts = [runs.exact(values, part).rule_grads for part in (some, rest)]
    for k in ks:
        g = one[k]
        scale = max(largest(g), largest(two[k]))
        if not np.isfinite(scale) or not scale:
            continue
        if largest(zero[k]) > 1e-9 * scale:
            if close(zero[k], g):
                yield k, "it does not depend on dy: at dy = 0 it is the same"
                continue
            where = np.unravel_index(int(np.argmax(np.abs(zero[k]))), g.shape)
            place = f"{list(map(int, where))} of it" if g.ndim else "it"
            value = f"{zero[k][where]:.6g}"
            if times := _multiple_of(runs, values, zero[k], k):
                place, value = "it", times
            yield k, f"at dy = 0 {place} is {value}: a term of it does not depend on dy"
        elif not close(two[k], 2 * g):
            why = "twice dy does not give twice the gradient"
            if close(two[k], 4 * g):
                why = "twice dy gives 4 times the gradient: dy squared"
            elif close(two[k], g):
                why = "twice dy gives the same gradient: only the sign of dy counts"
            yield k, f"it is not linear in dy: {why}"
        elif not close(minus[k], -g):
            why = "minus dy does not give minus the gradient"
            if close(minus[k], g):
                why = "minus dy gives the same gradient: it is that of |dy|"
            yield k, f"it is not linear in dy: {why}"
        elif not close(parts[0][k] + parts[1][k], g, max(scale, _noise(g, three[k]))):
            why = "the gradients of two parts of dy do not sum to that of dy"
            yield k, f"it is not linear in dy: {why}"


def _noise(g: np.ndarray, of_three: np.ndarray) -> float:
    """The size of gradients of which the rounding errors of this one would be a small part.

    Unlike twice or minus dy, three times dy rounds differently at every step.
    """
    return 100 * largest(of_three - 3 * g) / CLOSE


def _multiple_of(runs: Runs, values: Sequence[Any], term: np.ndarray, k: int) -> str:
    """The term as a multiple of an argument of its shape, or as a constant; "" if it is neither."""
    if term.size < 2:
        return ""
    arrays = {"everywhere": np.ones(term.shape)}
    for leaf, value in zip(runs.subject.leaves, values, strict=True):
        if np.shape(value) == term.shape and is_float(value):
            arrays[leaf.path] = np.asarray(value, term.dtype)
    for name, a in arrays.items():
        size = float(np.vdot(a, a).real)
        factor = float(np.vdot(a, term).real) / size if size else 0.0
        if close(term, factor * a):
            return f"{factor:.4g} {name}" if name == "everywhere" else f"{factor:.4g} times {name}"
    return ""


def rows_of_dy(
    runs: Runs, draws: Sequence[tuple[Sequence[Any], Sequence[np.ndarray]]], ks: Sequence[int]
) -> Iterator[tuple[int, str, bool]]:
    """Leaves whose gradient takes rows of a cotangent not at all, or several times.

    Args:
      runs: the programs.
      draws: values and cotangents; what is said holds at all of them.
      ks: the leaves.

    Yields:
      The leaf, a text, and whether all other rows reach the gradient as they should, so that the
      text explains all of it.
    """
    for n, dy in enumerate(draws[0][1]):
        which = f"output {n}'s dy" if len(draws[0][1]) > 1 else "dy"
        for axis, size in enumerate(dy.shape):
            if not 2 <= size <= _MOST_ROWS:
                continue
            counts = [_counts(runs, values, dys, n, axis, ks) for values, dys in draws]
            for k in ks:
                same = [_agreed([its[k][row] for its in counts]) for row in range(size)]
                told = [c for c in same if c is not None and not np.isnan(c)]
                is_all = not any(c is not None and np.isnan(c) for c in same)
                dead = [row for row, c in enumerate(same) if c == 0]
                alive = any(c for its in counts for c in its[k] if c is not None)
                if dead and alive:
                    reach = "reaches" if len(dead) == 1 else "reach"
                    said = f"{_rows(dead, size)} of {which} (axis {axis}) never {reach} it"
                    living = [row for row, c in enumerate(same) if c != 0]
                    if len(living) == 1:
                        said = f"only {_rows(living, size)} of {which} (axis {axis}) reaches it"
                    yield k, said, is_all and {*told} == {0.0, 1.0}
                often = [row for row, c in enumerate(same) if c is not None and c > 1.5]
                if is_all and {*told} == {1.0, *(same[r] for r in often)} and often:
                    times = {same[r] for r in often}
                    if len(times) == 1 and (c := times.pop()) and c == int(c):
                        said = f"{_rows(often, size)} of {which} (axis {axis})"
                        counted = "counts" if len(often) == 1 else "count"
                        yield k, f"{said} {counted} {int(c)} times in it", True


def _counts(
    runs: Runs, values: Sequence[Any], dys: Sequence[Any], n: int, axis: int, ks: Sequence[int]
) -> dict[int, list[float | None]]:
    """How often each row of a cotangent is in each gradient.

    NaN: not a number of times. None: the gradient does not depend on it.
    """
    found: dict[int, list[float | None]] = {k: [] for k in ks}
    for row in range(dys[n].shape[axis]):
        alone = [np.zeros_like(d) for d in dys]
        at = (slice(None),) * axis + (row,)
        alone[n][at] = dys[n][at]
        pair = runs.exact(values, alone)
        for k in ks:
            got, want = pair.rule_grads[k], pair.grads[k]
            if not largest(want):
                found[k].append(np.nan if largest(got) else None)
                continue
            count = float(np.vdot(want, got).real / np.vdot(want, want).real)
            count = round(count, 6)
            is_count = close(got, count * want, largest(want))
            found[k].append(count if is_count else np.nan)
    return found


def _agreed(counts: Sequence[float | None]) -> float | None:
    """The one count, NaN where they differ; None where nothing is known."""
    known = {c for c in counts if c is not None}
    if not known:
        return None
    return known.pop() if len(known) == 1 else float("nan")


def _rows(rows: list[int], size: int) -> str:
    if len(rows) == 1:
        return {0: "the first row", size - 1: "the last row"}.get(rows[0], f"row {rows[0]}")
    run = rows == list(range(rows[0], rows[-1] + 1))
    if run and rows[-1] == size - 1:
        return f"the last {len(rows)} rows"
    return f"the first {len(rows)} rows" if run and rows[0] == 0 else f"rows {rows}"
