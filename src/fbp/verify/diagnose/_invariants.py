"""Tests invariants of every gradient: it is linear in the cotangents and uses all their rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.diagnose._scene import close
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

    zero, one, two, minus = (at(factor) for factor in (0.0, 1.0, 2.0, -1.0))
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


def unfed(
    runs: Runs, values: Sequence[Any], dys: Sequence[np.ndarray], ks: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Leaves whose gradient ignores rows of a cotangent that the reference's gradient uses."""
    for n, dy in enumerate(dys):
        which = f"output {n}'s dy" if len(dys) > 1 else "dy"
        for axis, size in enumerate(dy.shape):
            if not 2 <= size <= _MOST_ROWS:
                continue
            dead: dict[int, list[int]] = {k: [] for k in ks}
            alive = set()
            for row in range(size):
                alone = [np.zeros_like(d) for d in dys]
                at = (slice(None),) * axis + (row,)
                alone[n][at] = dy[at]
                pair = runs.exact(values, alone)
                for k in ks:
                    if largest(pair.rule_grads[k]):
                        alive.add(k)
                    elif largest(pair.grads[k]):
                        dead[k].append(row)
            for k, rows in dead.items():
                if rows and k in alive:
                    yield k, f"{_rows(rows, size)} of {which} (axis {axis}) never reach it"


def _rows(rows: list[int], size: int) -> str:
    if len(rows) == 1:
        return {0: "the first row", size - 1: "the last row"}.get(rows[0], f"row {rows[0]}")
    run = rows == list(range(rows[0], rows[-1] + 1))
    if run and rows[-1] == size - 1:
        return f"the last {len(rows)} rows"
    return f"the first {len(rows)} rows" if run and rows[0] == 0 else f"rows {rows}"
