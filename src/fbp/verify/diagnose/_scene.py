"""One wrong gradient, with the arrays and sizes that may explain it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.verify.diagnose._made import made_by
from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._program import trace
from fbp.verify.program._thresholds import thresholds
from fbp.verify.rule._derived import once
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
      given: the names of the arrays that are arguments or outputs.
      made: what the function computes on its way, outside of loops, each with its name.
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
    given: tuple[str, ...]
    made: list[tuple[str, np.ndarray]]
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
    if single is not None and (not single.any() or not _is_elementwise(runs, probe, pair, k)):
        single = None
    outs = [name for name in arrays if re.fullmatch("y[0-9]*", name)]
    return Scene(
        leaf=leaves[i].path,
        got=pair.rule_grads[k],
        want=pair.grads[k],
        x=x,
        arrays=arrays,
        integers=integers,
        others={leaves[j].path: pair.grads[n] for n, j in enumerate(runs.diff) if n != k},
        sizes=sizes,
        thresholds=[*thresholds(runs.program), *_thresholds_of_rule(runs)],
        made=made_by(runs, probe.values),
        given=(*(leaf.path for leaf in leaves), *outs),
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


def _is_elementwise(runs: Runs, probe: Probe, pair: Pair, k: int) -> bool:
    """Whether each element of the gradient is that of dy times a number, for another dy too."""
    rng = np.random.default_rng(0)
    other = rng.normal(size=probe.dys[0].shape)
    its = runs.exact(probe.values, [other])
    return bool(its.grads) and close(its.grads[k] * probe.dys[0], pair.grads[k] * other)


def _thresholds_of_rule(runs: Runs) -> list[float]:
    """The numbers that the rule itself compares with."""

    def traced() -> list[float]:
        with jax.enable_x64(True):
            values, dys = (
                runs.wide(runs.subject.values),
                [np.zeros(a.shape) for a in runs.out_avals],
            )
            program = trace(lambda values, dys: runs.rule_grads(values, dys), values, dys)
        return thresholds(program)

    try:
        return once(runs, "thresholds of the rule", traced)
    except Exception:
        return []  # a rule of cotangents that are no plain floats


def spread_over(a: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The array broadcast to a shape, its axes beside each other, in every way that fits."""
    for start in range(len(shape) - a.ndim + 1):
        if shape[start : start + a.ndim] == a.shape and a.ndim:
            tail = (1,) * (len(shape) - start - a.ndim)
            yield np.broadcast_to(a.reshape(a.shape + tail), shape)


def standardised(x: np.ndarray, axis: int) -> np.ndarray:
    off = x - x.mean(axis, keepdims=True)
    return off / np.maximum(np.sqrt((off**2).mean(axis, keepdims=True)), 1e-30)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(x - x.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)
