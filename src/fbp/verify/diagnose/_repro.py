"""Writes a program that shows a wrong gradient, on the simplest input found that still does."""

import inspect
import os
import re
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.diagnose._simplest import cut, plainer
from fbp.verify.judge._findings import Finding
from fbp.verify.program._dtypes import is_float, wide
from fbp.verify.rule._callbacks import quiet_callbacks
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject


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

    There is none if the function cannot be imported, an argument is a key or is too large, or no
    program that was tried fails. The input is simplified as long as the gradient stays wrong:
    shorter axes, a one-hot cotangent, arguments that are zero, one, or rounded to one decimal. The
    program runs in the working dtype if the error shows there, where autodiff's would not, and else
    in float64.
    """
    subject, k = runs.subject, finding.leaf
    lines = _import(subject.original)
    if lines is None or k is None or not finding.pair.grads:
        return ""
    values, dys = list(finding.probe.values), [np.asarray(d) for d in finding.probe.dys]
    if any(not _is_plain(v) for v in values):
        return ""
    tried = [_Case(runs, values, dys, finding.pair.grads[k], k)]
    if runs.by == "reverse":
        small, plain, its = cut(runs, values, dys, k)
        plain, its = plainer(small, plain, its, k)
        tried.insert(0, _Case(small, plain, its, small.exact(plain, its).grads[k], k))
    for case in tried:
        for is_wide in (True,) if subject.in_float64 else (False, True):
            if _fails(case, is_wide):
                return _program(case, lines, is_wide)
    return ""


class _Case(NamedTuple):
    """One input of a program: values, cotangents, and the reference gradient of leaf k."""

    runs: Runs
    values: list[Any]
    dys: list[np.ndarray]
    want: np.ndarray
    k: int

    def given(self, is_wide: bool) -> list[Any]:
        """The values in float64 or in the working dtype."""
        cast = self.runs.wide if is_wide else self.runs.narrow
        return [np.asarray(v) for v in cast(self.values)]

    def tolerance(self, is_wide: bool) -> float:
        """What a right gradient may be off by, relative to its largest element."""
        if is_wide:
            return max(1e-7, self.runs.eps ** (2 / 3))
        eps = float(jnp.finfo(self.runs.dtypes[self.runs.diff[self.k]]).eps)
        return max(1e-3, 16 * eps)


def _fails(case: _Case, is_wide: bool) -> bool:
    """Whether the program of this case, run here, finds the gradient wrong, and autodiff right."""
    runs, k = case.runs, case.k
    try:
        with jax.enable_x64(is_wide), quiet_callbacks():
            got = _gradient(runs.subject, case.given(is_wide), case.dys, runs.diff[k])
        if not is_wide:
            control = runs.working(case.values, case.dys).grads
            if control and _is_off(control[k], case.want, case.tolerance(False)):
                return False
    except Exception:
        return False  # the function is not for this dtype
    return _is_off(got, case.want, case.tolerance(is_wide))


def _gradient(subject: Subject, values: list[Any], dys: list[Any], slot: int) -> np.ndarray:
    """What the program computes."""

    def of_one(a: Any) -> list[Any]:
        given = [a if i == slot else v for i, v in enumerate(values)]
        return list(filter(is_float, jax.tree.leaves(subject.original(*subject.arguments(given)))))

    ys, vjp = jax.vjp(of_one, values[slot])
    (got,) = vjp([jnp.asarray(d, y.dtype) for d, y in zip(dys, ys, strict=True)])
    return np.asarray(wide(np.asarray(got)))


def _is_off(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    known = np.isfinite(want)
    allowed = tolerance * np.abs(want[known]).max(initial=0.0)
    return not bool((np.abs(got - want)[known] <= allowed).all())


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


def _program(case: _Case, lines: list[str], is_wide: bool) -> str:
    runs, subject, slot = case.runs, case.runs.subject, case.runs.diff[case.k]
    leaf = subject.leaves[slot]
    values = case.given(is_wide)
    names = [_Name(f"a{i}") for i in range(len(values))]
    arrays = [
        f"a{i} = {_written(v)}  # {x.path}"
        for i, (v, x) in enumerate(zip(values, subject.leaves, strict=True))
    ]
    arguments = ", ".join(map(repr, subject.arguments(names)))
    cotangents = ", ".join(f"dy{n}" for n in range(len(case.dys)))
    reference = "the reference" if runs.own.startswith("the reference") else "the function"
    return "\n".join(
        [
            f'"""The gradient of {subject.name} by {leaf.path} is wrong."""',
            "",
            *("import jax", "import numpy as np", "", *lines, ""),
            *['jax.config.update("jax_enable_x64", True)'] * is_wide,
            *arrays,
            *[f"dy{n} = {_written(d)}" for n, d in enumerate(case.dys)],
            f"want = {_written(case.want)}  # float64 autodiff of {reference} without rules",
            "",
            "",
            f"def of_one(a{slot}):",
            f"    outs = jax.tree.leaves(f({arguments}))",
            "    return [y for y in outs if jax.numpy.issubdtype(y.dtype, jax.numpy.inexact)]",
            "",
            "",
            f"ys, vjp = jax.vjp(of_one, a{slot})",
            f"dys = [jax.numpy.asarray(d, y.dtype) for d, y in zip([{cotangents}], ys)]",
            "(got,) = vjp(dys)",
            *('print("by the rule", got)', 'print("reference  ", want)'),
            "known = np.isfinite(want)",
            "off = np.abs(np.asarray(got, want.dtype) - want)[known]",
            f"allowed = {case.tolerance(is_wide):.2g} * np.abs(want[known]).max(initial=0)",
            f'assert (off <= allowed).all(), "{leaf.path}"',
            "",
        ]
    )


def _written(a: Any) -> str:
    a = np.asarray(a)
    if is_float(a) and a.dtype.kind not in "fc":  # bfloat16, which NumPy does not know by name
        return f"jax.numpy.array({a.astype(np.float64).tolist()}, {str(a.dtype)!r})"
    text = f"np.array({a.tolist()}, {str(a.dtype)!r})"
    return re.sub(r"\b(nan|inf)\b", r"np.\1", text)
