"""Writes a program that shows a wrong gradient, on the simplest input found that still does."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify.judge._findings import Finding
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._numbers import largest
from fbp.verify.rule._runs import Runs


class _Name:
    """An object whose repr is the given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def is_importable(runs: Runs) -> bool:
    """Whether a program can import the function by its name."""
    return _import(runs.subject.original) is not None


def reproduction(runs: Runs, finding: Finding) -> str:
    """A runnable program for a finding, or "" if there is none.

    There is none if the function cannot be imported, or an argument is a key or is too large. The
    input is simplified as long as the gradient stays wrong: shorter axes, a one-hot cotangent,
    arguments that are zero, one, or rounded to one decimal.
    """
    subject, k = runs.subject, finding.leaf
    lines = _import(subject.original)
    if lines is None or k is None or not finding.pair.grads:
        return ""
    values, dys = list(finding.probe.values), [np.asarray(d) for d in finding.probe.dys]
    if any(not _is_plain(v) for v in values):
        return ""
    runs, values, dys = _cut(runs, values, dys, k)
    values, dys = _plainer(runs, values, dys, k)
    pair = runs.exact(values, dys)
    return _program(runs, lines, values, dys, pair.grads[k], k)


def _import(f: Any) -> list[str] | None:
    plain = inspect.unwrap(f) if callable(f) and not isinstance(f, type) else f
    module = getattr(plain, "__module__", None)
    held = vars(sys.modules[module]) if module in sys.modules else {}
    # The name that the module gives the function with its rule, not the function that it wraps.
    name = next((n for n, value in held.items() if value is f), None)
    if not callable(f) or name is None:
        return None
    if module != "__main__":
        return [f"from {module} import {name} as f"]
    try:
        file = os.path.abspath(inspect.getfile(plain))
    except (TypeError, OSError):
        return None
    return ["import runpy", "", f"f = runpy.run_path({file!r})[{name!r}]"]


def _is_plain(value: Any) -> bool:
    return not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended) and value.size <= 4096


def _is_wrong(runs: Runs, values: list[Any], dys: list[Any], k: int) -> bool:
    if runs.subject.domain is not None and not runs.subject.domain.has(values, 1e-6):
        return False
    pair = runs.exact(values, dys)
    if not pair.grads or not all(np.isfinite(o).all() for o in pair.out):
        return False
    got, want = pair.rule_grads[k], pair.grads[k]
    if not np.isfinite(want).all():
        return False
    return not largest(got - want) <= 1e-4 * largest(want) and pair.margin > 1e-6


def _cut(
    runs: Runs, values: list[Any], dys: list[Any], k: int
) -> tuple[Runs, list[Any], list[Any]]:
    """The same with shorter axes, if the function takes them and its gradient stays wrong."""
    lengths = {n for v in values for n in np.shape(v)}
    for most in (2, 3):
        if not lengths or max(lengths) <= most:
            break
        shorter = [v[tuple(slice(0, most) for _ in np.shape(v))] for v in values]
        leaves = tuple(
            dataclasses.replace(leaf, value=v)
            for leaf, v in zip(runs.subject.leaves, shorter, strict=True)
        )
        subject = dataclasses.replace(runs.subject, leaves=leaves, identity=None)
        try:
            small = Runs(subject, None)
            cut = [np.asarray(_crop(d, a.shape)) for d, a in zip(dys, small.out_avals, strict=True)]
            if _is_wrong(small, shorter, cut, k):
                return small, shorter, cut
        except Exception:
            continue  # these shapes do not fit together
    return runs, values, dys


def _crop(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if a.ndim != len(shape):
        raise ValueError("another rank")
    return a[tuple(slice(0, n) for n in shape)]


def _plainer(runs: Runs, values: list[Any], dys: list[Any], k: int) -> tuple[list[Any], list[Any]]:
    if not _is_wrong(runs, values, dys, k):
        return values, dys
    for n, dy in enumerate(dys):
        for place in np.argsort(-np.abs(dy).ravel())[:4]:
            one = np.zeros_like(dy)
            one.flat[place] = 1.0
            tried = [one if m == n else 0 * d for m, d in enumerate(dys)]
            if _is_wrong(runs, values, tried, k):
                dys = tried
                break
        else:
            continue
        break
    for i in runs.diff:
        value = np.asarray(values[i])
        for plain in (np.zeros_like(value), np.ones_like(value), _rounded(value)):
            tried = [plain if j == i else v for j, v in enumerate(values)]
            if _is_wrong(runs, tried, dys, k):
                values = tried
                break
    return values, dys


def _rounded(a: np.ndarray) -> np.ndarray:
    wide = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    return np.round(wide, 1).astype(a.dtype)


def _program(
    runs: Runs,
    lines: list[str],
    values: Sequence[Any],
    dys: Sequence[Any],
    want: np.ndarray,
    k: int,
) -> str:
    subject = runs.subject
    leaf = subject.leaves[runs.diff[k]]
    names = [_Name(f"a{i}") for i in range(len(values))]
    arrays = [
        f"a{i} = {_written(v)}  # {x.path}"
        for i, (v, x) in enumerate(zip(values, subject.leaves, strict=True))
    ]
    arguments = ", ".join(map(repr, subject.arguments(names)))
    slot = runs.diff[k]
    return "\n".join(
        [
            f'"""The gradient of {subject.name} by {leaf.path} is wrong."""',
            "",
            *("import jax", "import numpy as np", "", *lines, ""),
            *arrays,
            *[
                f"dy{n} = {_written(d.astype(a.dtype))}"
                for n, (d, a) in enumerate(zip(dys, runs.out_avals, strict=True))
            ],
            f"want = {_written(np.asarray(want))}  # float64 autodiff without the rule",
            "",
            "",
            f"def of_one(a{slot}):",
            f"    outs = jax.tree.leaves(f({arguments}))",
            "    return [y for y in outs if jax.numpy.issubdtype(y.dtype, jax.numpy.inexact)]",
            "",
            "",
            f"_, vjp = jax.vjp(of_one, a{slot})",
            f"(got,) = vjp([{', '.join(f'dy{n}' for n in range(len(dys)))}])",
            *('print("by the rule", got)', 'print("reference  ", want)'),
            f'assert np.allclose(got, want, rtol=1e-3, atol=1e-3 * abs(want).max()), "{leaf.path}"',
            "",
        ]
    )


def _written(a: Any) -> str:
    a = np.asarray(a)
    if is_float(a) and a.dtype.kind not in "fc":  # bfloat16, which NumPy does not know by name
        return f"jax.numpy.array({a.astype(np.float64).tolist()}, {str(a.dtype)!r})"
    return f"np.array({a.tolist()}, {str(a.dtype)!r})"
