"""What is known of the values of a program without running it.

There are three kinds: known constants; a u + b, where u is an input x, |v| or v^2 of another such
value v; and one of a few known numbers, such as an entry of a table.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from fbp.verify.program._interpreter import bind
from fbp.verify.program._program import dtype_of

# A larger constant is a mask, not a threshold.
LARGEST = 1e4
# Constants larger than this are not computed.
_MOST_ELEMENTS = 4096
MOST_EDGES = 16
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


def known(value: Any) -> np.ndarray | None:
    """A constant as an array; None if it is not known, is a key, or is too large."""
    if isinstance(value, jax.core.Tracer):
        return None
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        return None
    return np.asarray(value) if np.size(value) <= _MOST_ELEMENTS else None


def computed(eqn: JaxprEqn, ins: Sequence[np.ndarray]) -> list[Any]:
    """The outputs of an equation whose inputs are known."""
    sizes = [math.prod(getattr(v.aval, "shape", (_MOST_ELEMENTS + 1,))) for v in eqn.outvars]
    if max(sizes, default=0) > _MOST_ELEMENTS or eqn.effects:
        return [None] * len(eqn.outvars)
    try:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            fitting = [jnp.asarray(a, dtype_of(v)) for a, v in zip(ins, eqn.invars, strict=True)]
            return [known(out) for out in bind(eqn, fitting)]
    except Exception:
        return [None] * len(eqn.outvars)


def followed(name: str, ins: Sequence[Any], eqn: JaxprEqn) -> Any:
    """The output of an equation with one, some of whose inputs are not known."""
    first = ins[0] if ins else None
    if name in _SHAPES:
        if isinstance(first, np.ndarray):
            return _one_of(first) if name in ("gather", "dynamic_slice") else None
        same = getattr(eqn.invars[0].aval, "shape", None) == getattr(
            eqn.outvars[0].aval, "shape", ()
        )
        keeps = same and name not in ("gather", "rev", "transpose")
        return first if keeps else moved_of(first)
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


def numbers_in(value: np.ndarray | OneOf) -> list[float]:
    array = value.values if isinstance(value, OneOf) else value
    if array.dtype.kind not in "fiu":
        return []
    return [float(c) for c in np.unique(array)[:MOST_EDGES] if np.isfinite(c)]


def _one_of(array: np.ndarray) -> OneOf | None:
    return OneOf(np.unique(array)) if array.dtype.kind in "fiu" and array.size else None


def moved_of(value: Any) -> Any:
    if isinstance(value, Affine):
        return dataclasses.replace(value, moved=True)
    if isinstance(value, np.ndarray):
        return _one_of(value)
    return value
