"""Altered cotangents and inputs with which the reference may reproduce a wrong gradient."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.diagnose._scene import softmax
from fbp.verify.probe._probes import Probe
from fbp.verify.program._dtypes import is_key
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs


def alterations(
    runs: Runs, pairs: Sequence[tuple[Probe, Pair]], probe: Probe
) -> Iterator[tuple[str, str, list[Any], list[Any]]]:
    for n, dy in enumerate(probe.dys):
        which = f"output {n}'s " if len(probe.dys) > 1 else ""
        for text, altered in _cotangents(dy):
            dys = [altered if m == n else d for m, d in enumerate(probe.dys)]
            yield "cotangent", f"feeding the reference {which}{text}", probe.values, dys
        if len(probe.dys) > 1:
            dys = [0 * d if m == n else d for m, d in enumerate(probe.dys)]
            which = ("first", "second", "third", *["later"] * n)[n]
            yield "cotangent", f"dropping the cotangent of the {which} output", probe.values, dys
    for n, m in itertools.combinations(range(len(probe.dys)), 2):
        if probe.dys[n].shape == probe.dys[m].shape:
            dys = list(probe.dys)
            dys[n], dys[m] = dys[m], dys[n]
            text = f"swapping the cotangents of outputs {n} and {m}"
            yield "cotangent", text, probe.values, dys
    # With other input, a loop that runs until something converges may not end.
    for j, leaf in enumerate([] if runs.iterates else runs.subject.leaves):
        if is_key(leaf.value):
            continue
        a = np.asarray(probe.values[j])
        for text, altered in itertools.chain(_inputs(a), _lengths(runs, a)):
            values = [altered if m == j else v for m, v in enumerate(probe.values)]
            yield "input", f"{leaf.path} {text}, given to the reference,", values, probe.dys
        for m, other in enumerate(runs.subject.leaves[:j]):
            if is_key(other.value):
                continue
            b = np.asarray(probe.values[m])
            if b.shape == a.shape and b.dtype == a.dtype:
                values = list(probe.values)
                values[m], values[j] = a, b
                yield (
                    "input",
                    f"the reference with {other.path} and {leaf.path} swapped",
                    values,
                    probe.dys,
                )
                values = list(probe.values)
                values[j] = b
                yield (
                    "input",
                    f"the reference with {other.path} for {leaf.path} (swap)",
                    values,
                    probe.dys,
                )
    for earlier, _ in pairs[:3]:
        if earlier.name != probe.name:
            text = "the reference at another call's input (a stale residual)"
            yield "input", text, earlier.values, probe.dys


def _cotangents(dy: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "ones for dy", np.ones_like(dy)
    with np.errstate(all="ignore"):
        yield "dy rounded to bfloat16", _rounded(dy)
    yield "|dy|", np.abs(dy)
    yield "the sign of dy", np.sign(dy)
    yield "dy clipped to [-1, 1]", np.clip(dy.real, -1, 1)
    yield "dy squared", dy * dy
    yield "the mean of dy for all", np.full_like(dy, dy.mean() if dy.size else 0)
    yield "the sum of dy for all", np.full_like(dy, dy.sum())
    for axis, n in enumerate(dy.shape):
        if n < 2:
            continue
        first = dy.take([0], axis)
        last = dy.take([-1], axis)
        yield f"the first row of dy (axis {axis}) for all", np.broadcast_to(first, dy.shape).copy()
        yield f"the last row of dy (axis {axis}) for all", np.broadcast_to(last, dy.shape).copy()
        mean = dy.mean(axis, keepdims=True)
        yield f"the mean of dy along axis {axis}", np.broadcast_to(mean, dy.shape).copy()
        yield f"the sum of dy along axis {axis}", np.broadcast_to(n * mean, dy.shape).copy()
        yield f"dy less its mean along axis {axis}", dy - mean
        for rows in {2, 3, 4, n % 4, n % 8, n % 16}:
            if 1 < rows < n:
                without = dy.copy()
                without[(slice(None),) * axis + (slice(n - rows, None),)] = 0
                yield f"dy without its last {rows} rows (axis {axis})", without
        for says, row in (("first", 0), ("last", n - 1)):
            without = dy.copy()
            without[(slice(None),) * axis + (row,)] = 0
            yield f"dy without its {says} row (axis {axis})", without
            yield f"only the {says} row of dy (axis {axis})", dy - without
        for parts in {2, jax.device_count()}:
            if parts > 1 and n % parts == 0:
                for i in range(parts):
                    part = np.zeros_like(dy)
                    rows = (slice(None),) * axis + (slice(i * n // parts, (i + 1) * n // parts),)
                    part[rows] = dy[rows]
                    yield f"only part {i + 1} of {parts} of dy (axis {axis})", part
        yield f"dy flipped along axis {axis}", np.flip(dy, axis)
        for by in (1, -1):
            yield f"dy rolled by {by} along axis {axis}", np.roll(dy, by, axis)
        for axis2 in range(axis):
            if dy.shape[axis2] == n:
                yield f"dy with axes {axis2} and {axis} transposed", dy.swapaxes(axis2, axis)


def _rounded(a: np.ndarray) -> np.ndarray:
    return np.asarray(a).astype(jnp.bfloat16).astype(np.float64)


def _lengths(runs: Runs, a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Integers that are all the size of an axis: lengths that are not looked at."""
    if a.dtype.kind == "i":
        sizes = {n for i in runs.diff for n in runs.subject.leaves[i].value.shape}
        for n in sorted(sizes):
            yield f"all {n} (lengths ignored)", np.full_like(a, n)
            yield f"{n} where not 0 (lengths ignored)", np.where(a == 0, a, np.asarray(n, a.dtype))


def _inputs(a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if a.dtype == bool:
        yield "all true (mask ignored)", np.ones_like(a)
        yield "all false", np.zeros_like(a)
        yield "inverted", ~a
        for axis, n in enumerate(a.shape):
            for steps in (1, -1) if n > 1 else ():
                rolled = np.roll(a, steps, axis)
                yield f"rolled by {steps} along axis {axis} (shifted mask)", rolled
        return
    if a.dtype.kind in "iu":
        if a.dtype.kind == "u":
            yield "changed (another key)", a + np.asarray(1, a.dtype)
            return
        one, size = np.asarray(1, a.dtype), np.asarray(a.max() + 1, a.dtype)
        for by, says in ((one, "+ 1"), (-one, "- 1")):
            yield f"{says} (index off by one)", a + by
            yield f"{says} (index off by one), round the end", np.where(a >= 0, (a + by) % size, a)
            yield f"{says} where not negative (index off by one)", np.where(a >= 0, a + by, a)
        yield "all 0 (index ignored)", np.zeros_like(a)
        if a.ndim:
            yield "0, 1, 2, ... (index ignored)", np.indices(a.shape, a.dtype)[-1] % size
        for axis, n in enumerate(a.shape):
            if n > 1:
                yield f"rolled by one along axis {axis} (shifted index)", np.roll(a, 1, axis)
                yield f"rolled by minus one along axis {axis} (shifted index)", np.roll(a, -1, axis)
        return
    if a.dtype.kind == "c":
        yield "conjugated", np.conj(a)
        return
    if a.dtype.kind not in "biuf":
        a = a.astype(np.float64)
    for axes in itertools.combinations(range(a.ndim), 2):
        if all(a.shape[axis] > 1 for axis in axes):
            yield f"flipped along axes {axes}", np.flip(a, axes)
    yield "left out (zero)", np.zeros_like(a)
    yield "left out (one)", np.ones_like(a)
    yield "negated", -a
    yield "plus 1", a + np.asarray(1, a.dtype)
    yield "minus 1", a - np.asarray(1, a.dtype)
    yield "doubled", a * np.asarray(2, a.dtype)
    yield "halved", a / np.asarray(2, a.dtype)
    yield "squared", a * a
    with np.errstate(all="ignore"):
        yield "through tanh", np.tanh(a)
        yield "through relu", np.maximum(a, 0)
        if a.ndim:
            yield "through softmax", softmax(a.astype(np.float64), a.ndim - 1).astype(a.dtype)
        yield "inverted (1/x)", np.where(a == 0, 0, 1 / np.where(a == 0, 1, a)).astype(a.dtype)
        yield "as its root", np.sqrt(np.abs(a))
    for axis, n in enumerate(a.shape):
        if n < 2:
            continue
        first = np.broadcast_to(a.take([0], axis), a.shape).copy()
        yield f"with its first row (axis {axis}) for all", first
        yield f"rolled by one along axis {axis}", np.roll(a, 1, axis)
        yield f"rolled by minus one along axis {axis}", np.roll(a, -1, axis)
        yield f"flipped along axis {axis}", np.flip(a, axis)
        for axis2 in range(axis):
            if a.shape[axis2] == n:
                yield f"with axes {axis2} and {axis} transposed", a.swapaxes(axis2, axis)
