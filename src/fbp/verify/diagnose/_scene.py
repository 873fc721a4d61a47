"""One wrong gradient, with the arrays and sizes that may explain it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._thresholds import thresholds
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

CLOSE = 1e-7


class Scene(NamedTuple):
    """One wrong gradient, with the arrays and sizes of the probe on which it is wrong.

    Attributes:
      leaf: the path of the leaf.
      got: the gradient by the rule.
      want: the reference.
      x: the value of the leaf.
      arrays: by name, the float arguments, outputs, cotangents and reference gradients of the
        other leaves, and functions of these.
      integers: the integer and boolean arguments.
      others: the reference gradients of the other leaves.
      sizes: by name, the sizes of axes, counts of integers, and the number of devices.
      thresholds: constants that the function compares with.
      dy: the cotangent, where the function is elementwise in this leaf; else None.
    """

    leaf: str
    got: np.ndarray
    want: np.ndarray
    x: np.ndarray
    arrays: dict[str, np.ndarray]
    integers: dict[str, np.ndarray]
    others: dict[str, np.ndarray]
    sizes: dict[str, int]
    thresholds: list[float]
    dy: np.ndarray | None


def close(a: Any, b: Any, scale: float | None = None) -> bool:
    """Whether two gradients are the same up to rounding."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    with np.errstate(all="ignore"):
        size = np.abs(b).max(initial=0.0) if scale is None else scale
        # Most pairs of gradients differ widely, and a few elements show it.
        few, its = (x.flat[:: x.size // 64 + 1] for x in (a, b))
        if not np.abs(few - its).max(initial=0.0) <= CLOSE * size:
            return False
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return bool(np.abs(a - b).max(initial=0.0) <= CLOSE * size) and size > 0


def scene_of(runs: Runs, pairs: Sequence[tuple[Probe, Pair]], finding: Finding, k: int) -> Scene:
    """The scene of a finding in leaf k; `pairs` are all probes and the gradients on each."""
    probe, pair = finding.probe, finding.pair
    leaves = runs.subject.leaves
    i = runs.diff[k]
    wide = [
        np.asarray(v, np.float64) if is_float(v) and v.dtype.kind == "f" else v
        for v in probe.values
    ]
    arrays: dict[str, np.ndarray] = {}
    integers: dict[str, np.ndarray] = {}
    for j, leaf in enumerate(leaves):
        if is_float(leaf.value):
            arrays[leaf.path] = np.asarray(wide[j])
        elif not is_key(leaf.value):
            integers[leaf.path] = np.asarray(probe.values[j])
    x = arrays[leaves[i].path]
    for n, (out, dy) in enumerate(zip(pair.out, probe.dys, strict=True)):
        suffix = str(n) if len(pair.out) > 1 else ""
        arrays[f"y{suffix}"], arrays[f"dy{suffix}"] = np.asarray(out), np.asarray(dy)
        if np.shape(out) == x.shape:
            arrays[f"y dy{suffix}"] = out * dy
            arrays[f"x dy{suffix}"] = x * dy
    arrays["1"] = np.ones_like(x)
    for n, j in enumerate(runs.diff):
        if n != k:
            arrays[f"the gradient of {leaves[j].path}"] = pair.grads[n]
    for leaf in leaves:
        value = arrays.get(leaf.path)
        if value is not None and value.ndim and value.dtype.kind == "f":
            for axis in range(value.ndim):
                norm = np.sqrt((value**2).sum(axis))
                arrays[f"the norm of {leaf.path} along axis {axis}"] = norm
    for axis in range(x.ndim):
        if x.shape[axis] > 2 and x.dtype.kind == "f":
            arrays[f"{leaves[i].path} standardised along axis {axis}"] = standardised(x, axis)
            arrays[f"softmax of {leaves[i].path} along axis {axis}"] = softmax(x, axis)
    sizes = sizes_of(runs, integers)
    single: Any = probe.dys[0] if len(probe.dys) == 1 and probe.dys[0].shape == x.shape else None
    if single is not None and (not single.any() or not _is_elementwise(pairs, k)):
        single = None
    return Scene(
        leaf=leaves[i].path,
        got=pair.rule_grads[k],
        want=pair.grads[k],
        x=x,
        arrays=arrays,
        integers=integers,
        others={leaves[j].path: pair.grads[n] for n, j in enumerate(runs.diff) if n != k},
        sizes=sizes,
        thresholds=thresholds(runs.program),
        dy=single,
    )


def sizes_of(runs: Runs, integers: dict[str, np.ndarray]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for leaf in runs.subject.leaves:
        for axis, n in enumerate(leaf.value.shape):
            if n not in sizes.values():
                sizes[f"axis {axis} of {leaf.path}"] = int(n)
    for name, a in integers.items():
        for says, count in (
            (f"{name} that are true", a != 0),
            (f"{name} that are not negative", a >= 0),
        ):
            n = int(count.sum())
            if n and n not in sizes.values():
                sizes[says] = n
    n = max(1, jax.device_count())
    if n > 1 and n not in sizes.values():
        sizes["devices"] = n
    return sizes


def _is_elementwise(pairs: Sequence[tuple[Probe, Pair]], k: int) -> bool:
    """Whether the gradient of a one-hot cotangent is zero in every other element."""
    for probe, pair in pairs:
        if probe.name == "one-hot cotangent":
            hot = probe.dys[0] != 0
            return hot.shape == pair.grads[k].shape and not pair.grads[k][~hot].any()
    return False


def standardised(x: np.ndarray, axis: int) -> np.ndarray:
    off = x - x.mean(axis, keepdims=True)
    return off / np.maximum(np.sqrt((off**2).mean(axis, keepdims=True)), 1e-30)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(x - x.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)
