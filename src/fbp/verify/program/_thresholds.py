"""Where a program compares its inputs with constants: there it may have kinks.

The program is followed with three kinds of values: known ones; a u + b, where u is an input x, |v|
or v^2 of another such value v; and one of a few known numbers, as an entry of a table. A comparison
of a u + b with a number c has its thresholds at the x that solve a u + b = c.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from fbp.verify.program._interpreter import CALLS, all_inputs, bind
from fbp.verify.program._margins import COMPARED
from fbp.verify.program._program import dtype_of, equations, opened, scan_splits

# A larger constant is a mask, not a threshold.
_LARGEST = 1e4
# Constants larger than this are not computed.
_MOST_ELEMENTS = 4096
_MOST_EDGES = 16
# What moves elements about and changes none.
_SHAPES = {
    *("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "slice", "rev", "copy"),
    *("dynamic_slice", "gather", "convert_element_type", "stop_gradient", "reduce_precision"),
}


@dataclasses.dataclass(frozen=True)
class Affine:
    """a u + b, element by element: u is the input `leaf`, or |inner| or inner^2.

    `moved` if its shape is not that of the input.
    """

    leaf: int
    a: float = 1.0
    b: float = 0.0
    moved: bool = False
    inner: "Affine | None" = None
    squared: bool = False

    def solve(self, c: Any) -> list[Any]:
        """The x at which it is c."""
        u = (c - self.b) / self.a
        if self.inner is None:
            return [u]
        if np.any(u < 0):
            return []
        v = np.sqrt(u) if self.squared else u
        return [x for signed in (v, -v) for x in self.inner.solve(signed)]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few numbers, it is not known which."""

    values: np.ndarray


class Thresholds:
    """Follows a program and collects its thresholds.

    Attributes:
      of_leaf: by input, numbers or arrays of its shape that it is compared with.
      others: numbers that something else is compared with.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.of_leaf: dict[int, list[Any]] = {}
        self.others: list[float] = []

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        """The values of the outputs, as far as they are known; None for the others."""
        jaxpr, consts = opened(program)
        values: dict[Any, Any] = {}
        values.update(zip(all_inputs(jaxpr), [*map(_known, consts), *args], strict=True))

        def read(atom: Any) -> Any:
            return _known(atom.val) if isinstance(atom, Literal) else values.get(atom)

        for eqn in jaxpr.eqns:
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=False))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        unknown = [None] * len(eqn.outvars)
        if name in CALLS and CALLS[name] in params:
            return self.run(params[CALLS[name]], ins)
        if name == "cond":
            branches = [self.run(branch, ins[1:]) for branch in params["branches"]]
            return branches[0] if len(branches) == 1 else unknown
        if name == "scan":
            n, m = scan_splits(params)
            xs = [_moved(value) for value in ins[m:]]
            self.run(params["jaxpr"], [*ins[:n], *[None] * (m - n), *xs])
            return unknown
        if name == "while":
            n = params["cond_nconsts"]
            m = n + params["body_nconsts"]
            carry = [None] * (len(ins) - m)
            self.run(params["cond_jaxpr"], [*ins[:n], *carry])
            self.run(params["body_jaxpr"], [*ins[n:m], *carry])
            return unknown
        if ins and all(isinstance(value, np.ndarray) for value in ins):
            return _computed(eqn, ins)
        self._note(eqn, ins)
        if len(eqn.outvars) != 1:
            return unknown
        return [_followed(name, ins, eqn)]

    def _note(self, eqn: JaxprEqn, ins: Sequence[Any]) -> None:
        name = eqn.primitive.name
        if name in COMPARED:
            for value in ins:
                for other in ins:
                    if other is not value and isinstance(other, np.ndarray | OneOf):
                        self._compared(value, other)
        elif name == "call_hi_primitive" and "searchsorted" in str(eqn.params).lower():
            self._compared(ins[1], ins[0])  # a primitive of its own from jax 0.12 on
        elif name in ("abs", "sign"):
            self._compared(ins[0], np.zeros(()))
        elif name in ("floor", "ceil"):
            self._compared(ins[0], OneOf(np.array([0.0, 1.0, -1.0])))
        elif name == "round":
            self._compared(ins[0], OneOf(np.array([0.5, -0.5, 1.5])))
        elif name == "rem" and isinstance(ins[1], np.ndarray) and ins[1].size == 1:
            self._compared(ins[0], OneOf(float(ins[1].ravel()[0]) * np.array([0.0, 1.0, -1.0])))

    def _compared(self, value: Any, other: np.ndarray | OneOf) -> None:
        if not isinstance(value, Affine):
            if value is None:
                self.others += [c for c in _numbers(other) if abs(c) < _LARGEST]
            return
        shape = self.shapes[value.leaf]
        if isinstance(other, np.ndarray) and other.size > 1 and not value.moved:
            try:
                places = np.broadcast_to(other.astype(np.float64), shape)
            except ValueError:
                places = None
            if places is not None:
                self._add(value, places)
                return
        for c in _numbers(other):
            self._add(value, c)

    def _add(self, value: Affine, c: Any) -> None:
        known = self.of_leaf.setdefault(value.leaf, [])
        for x in value.solve(c):
            usable = np.isfinite(x).all() and np.abs(x).max(initial=0.0) < _LARGEST
            is_new = all(np.shape(t) != np.shape(x) or np.any(t != x) for t in known)
            if usable and is_new and len(known) < _MOST_EDGES:
                known.append(x)


def thresholds_of(
    program: ClosedJaxpr, values: Sequence[Any], diff: Iterable[int]
) -> dict[int, list[Any]]:
    """By differentiable input, where the program compares it with something known.

    Args:
      program: the program.
      values: its inputs; of those that are not differentiated the values are known.
      diff: the inputs that are differentiated.
    """
    diff = set(diff)
    follow = Thresholds([np.shape(v) for v in values])
    args = [Affine(i) if i in diff else _known(v) for i, v in enumerate(values)]
    follow.run(program, args)
    return follow.of_leaf


def thresholds(program: ClosedJaxpr) -> list[float]:
    """The constants a program compares with: where its kinks may be."""
    avals = program.in_avals
    floats = [jnp.issubdtype(a.dtype, jnp.floating) for a in avals]
    follow = Thresholds([a.shape for a in avals])
    follow.run(program, [Affine(i) if f else None for i, f in enumerate(floats)])
    found = set(follow.others)
    for edges in follow.of_leaf.values():
        found.update(float(t) for edge in edges for t in np.unique(edge)[:_MOST_EDGES])
    return sorted(found, key=abs)[:8]


def special_integers(program: ClosedJaxpr) -> list[int]:
    """The integers that a program compares with: a padding id, a label to ignore."""
    found: dict[int, None] = {}
    for eqn in equations(program.jaxpr):
        name = eqn.primitive.name
        for atom in eqn.invars if name in ("eq", "ne", "lt", "le", "gt", "ge") else ():
            if not isinstance(atom, Literal) or not jnp.issubdtype(dtype_of(atom), jnp.integer):
                continue
            if np.ndim(atom.val) == 0:
                n = int(atom.val)
                # Negative ones only from == and !=: `i < 0` is how jax wraps an index.
                here = [n] if name in ("eq", "ne") else [m for m in (n, n + 1) if m >= 0]
                found.update(dict.fromkeys(here))
    return list(found)[:6]


def _known(value: Any) -> np.ndarray | None:
    if isinstance(value, jax.core.Tracer):
        return None
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        return None
    return np.asarray(value) if np.size(value) <= _MOST_ELEMENTS else None


def _computed(eqn: JaxprEqn, ins: Sequence[np.ndarray]) -> list[Any]:
    """The outputs of an equation whose inputs are known."""
    sizes = [math.prod(getattr(v.aval, "shape", (_MOST_ELEMENTS + 1,))) for v in eqn.outvars]
    if max(sizes, default=0) > _MOST_ELEMENTS or eqn.effects:
        return [None] * len(eqn.outvars)
    try:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            fitting = [jnp.asarray(a, dtype_of(v)) for a, v in zip(ins, eqn.invars, strict=True)]
            return [_known(out) for out in bind(eqn, fitting)]
    except Exception:
        return [None] * len(eqn.outvars)


def _followed(name: str, ins: Sequence[Any], eqn: JaxprEqn) -> Any:
    """The output of an equation with one, some of whose inputs are not known."""
    first = ins[0] if ins else None
    if name in _SHAPES:
        if isinstance(first, np.ndarray):
            return _one_of(first) if name in ("gather", "dynamic_slice") else None
        same = getattr(eqn.invars[0].aval, "shape", None) == getattr(
            eqn.outvars[0].aval, "shape", ()
        )
        return first if same and name != "gather" else _moved(first)
    if name in ("max", "min", "clamp", "select_n"):
        # In a part of its domain it is one of these.
        cases = ins[1:] if name == "select_n" else ins
        return next((v for kind in (Affine, OneOf) for v in cases if isinstance(v, kind)), None)
    if isinstance(first, Affine) and (
        name in ("abs", "square") or (name == "integer_pow" and eqn.params["y"] == 2)
    ):
        return Affine(first.leaf, moved=first.moved, inner=first, squared=name != "abs")
    if name == "neg" and isinstance(first, Affine):
        return dataclasses.replace(first, a=-first.a, b=-first.b)
    if name in ("add", "sub", "mul", "div") and len(ins) == 2:
        x, c = ins
        if name == "mul" and eqn.invars[0] is eqn.invars[1] and isinstance(x, Affine):
            return Affine(x.leaf, moved=x.moved, inner=x, squared=True)
        if name in ("add", "mul") and isinstance(c, Affine):
            x, c = c, x
        number = _number(c)
        if isinstance(x, Affine) and number is not None:
            if name == "add":
                return dataclasses.replace(x, b=x.b + number)
            if name == "sub":
                return dataclasses.replace(x, b=x.b - number)
            if number:
                factor = number if name == "mul" else 1 / number
                return dataclasses.replace(x, a=x.a * factor, b=x.b * factor)
        number = _number(ins[0])
        if name == "sub" and isinstance(ins[1], Affine) and number is not None:
            return dataclasses.replace(ins[1], a=-ins[1].a, b=number - ins[1].b)
    return None


def _number(value: Any) -> float | None:
    """The one number that an array holds, however often."""
    if not isinstance(value, np.ndarray) or not value.size or value.dtype.kind not in "fiub":
        return None
    first = float(value.ravel()[0])
    return first if np.isfinite(first) and (value == value.ravel()[0]).all() else None


def _numbers(value: np.ndarray | OneOf) -> list[float]:
    array = value.values if isinstance(value, OneOf) else value
    if array.dtype.kind not in "fiu":
        return []
    return [float(c) for c in np.unique(array)[:_MOST_EDGES] if np.isfinite(c)]


def _one_of(array: np.ndarray) -> OneOf | None:
    return OneOf(np.unique(array)) if array.dtype.kind in "fiu" and array.size else None


def _moved(value: Any) -> Any:
    if isinstance(value, Affine):
        return dataclasses.replace(value, moved=True)
    if isinstance(value, np.ndarray):
        return _one_of(value)
    return value
