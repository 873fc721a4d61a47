"""Evaluates a program with a switch at every place where a backward pass can go wrong.

A switch acts on the cotangent of an operand (drops, scales or transposes it), on the derivative of
an elementwise function (replaces it by one) or of a product (leaves a factor out), on a loop (cuts
its backward short), on a constant (drops, halves, doubles or negates it,
replaces it by one), on a comparison (includes or excludes its boundary, makes it always or never
true) or on a mask.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from fbp._layer import Array
from fbp.verify.program._interpreter import Interpreter, bind, scanned
from fbp.verify.program._program import dtype_of, opened, scan_splits, source_of

_COMPARISONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}


_UNARY = (
    *("tanh", "logistic", "exp", "log", "log1p", "expm1", "sin", "cos", "erf", "erfc", "sqrt"),
    *("rsqrt", "integer_pow", "square", "abs", "neg", "cbrt", "sign", "erf_inv", "atan", "asinh"),
)


_REORDERS = ("rev", "gather", "sort", "transpose")


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a program that has a switch.

    Attributes:
      kind: "operand", "derivative", "factor", "constant", "comparison", "choice" or "loop".
      what: the primitive, with the value of the constant or the primitive that made the operand.
      settings: the values of the switch, each with the text that describes it; 0 is off.
      source: file and line, if known.
      operand: the number of the operand's variable, the same for all its uses; 0 for others.
    """

    kind: str
    what: str
    settings: tuple[tuple[float, str], ...]
    source: tuple[str, int] | None
    operand: int = 0


class Switched(Interpreter):
    """Evaluates a program with the given switches; with None, only lists their places."""

    def __init__(self, switches: Array | None = None) -> None:
        self.switches = switches
        self.places: list[Place] = []
        self.outer: tuple[str, int] | None = None
        self.made_by: dict[Any, str] = {}
        self.numbers: dict[Any, int] = {}
        self.in_loop = False

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        before = self.outer
        self.outer = source_of(eqn) or before
        outs = super().equation(eqn, ins)
        self.outer = before
        for var in eqn.outvars:
            self.made_by[var] = eqn.primitive.name
        return outs

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        length = eqn.params["length"]
        t = None
        if length > 2:
            settings = [
                *((1.0, "keep only the last step of"), (2.0, "keep only the last 2 steps of")),
                *((3.0, "keep only the last 3 steps of"), (4.0, "drop the first step's share in")),
                (5.0, "drop the last step's share in"),
            ]
            t = self._switch("loop", f"a loop of {length} steps", settings)
        # The body of a scan may be traced several times; each trace lists the same places.
        start, outer = len(self.places), self.in_loop
        self.in_loop = True

        def again(program: Any, consts: Any, args: Any) -> list[Any]:
            del self.places[start:]
            return self.run(program, consts, args)

        outs = scanned(eqn, ins, again) if t is None else _cut(eqn, ins, again, t)
        self.in_loop = outer
        return outs

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().loop(eqn, ins)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().cond(eqn, ins)

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        changed: list[Any] = []
        for n, (atom, value) in enumerate(zip(eqn.invars, ins, strict=True)):
            twin = next((m for m, a in enumerate(eqn.invars[:n]) if a is atom), None)
            if twin is not None and not isinstance(atom, Literal):
                changed.append(changed[twin])  # x * x is one use of x, not two
            elif not hasattr(atom, "aval") or not hasattr(atom.aval, "dtype"):
                changed.append(value)
            elif isinstance(atom, Literal):
                changed.append(self._constant(eqn, atom, value))
            elif jnp.issubdtype(atom.aval.dtype, jnp.floating):
                changed.append(self._operand(eqn, atom, value))
            else:
                changed.append(value)
        if name == "select_n" and jnp.issubdtype(jnp.result_type(ins[0]), jnp.bool_):
            changed[0] = self._choice(eqn, changed[0])
        outs = super().primitive(eqn, changed)
        if name in _COMPARISONS:
            outs = [self._comparison(eqn, changed, outs[0])]
        elif name in _REORDERS:
            outs = [self._unordered(eqn, changed[0], outs[0]), *outs[1:]]
        elif name in _UNARY:
            outs = [self._derivative(eqn, changed[0], outs[0])]
        elif name == "dot_general":
            outs = [self._turned(eqn, changed, outs[0])]
        elif name in ("mul", "div"):
            outs = [self._without_factor(eqn, changed, outs[0])]
        return outs

    def constant(self, value: Any) -> Any:
        """A constant mask of the program: one switch acts on all its uses at once."""
        if getattr(value, "dtype", None) != np.bool_ or not value.ndim:
            return value
        settings = [(1.0, "always true: mask dropped,"), (2.0, "never true:"), (3.0, "negate")]
        moved: list[Any] = []
        for axis in range(max(0, value.ndim - 2), value.ndim):
            for by in (1, -1):
                where = f"by one along axis {axis}"
                settings.append((4.0 + 2 * len(moved), f"wider {where} (beside its diagonal):"))
                settings.append((5.0 + 2 * len(moved), f"narrower {where} (its diagonal):"))
                moved.append(_shifted(value, by, axis))
        t = self._switch("choice", "a constant mask (where)", settings)
        if t is None:
            return value
        for n, other in enumerate(moved):
            value = (value | (other & (t == 4 + 2 * n))) & (other | (t != 5 + 2 * n))
        return ((value | (t == 1)) & (t != 2)) ^ (t == 3)

    def _switch(
        self, kind: str, what: str, settings: Sequence[tuple[float, str]], operand: Any = None
    ) -> Any:
        number = len(self.places)
        of = 0 if operand is None else self.numbers.setdefault(operand, len(self.numbers) + 1)
        self.places.append(Place(kind, what, tuple(settings), self.outer, of))
        if self.switches is None or number >= len(self.switches):
            return None
        return self.switches[number]

    def _operand(self, eqn: JaxprEqn, atom: Any, x: Any) -> Any:
        made = self.made_by.get(atom, "an argument")
        settings = [(1.0, "drop")]
        if self.in_loop:  # its share in a gradient is not linear in a change at every step
            settings += [(2.0, "negate"), (0.5, "halve"), (-1.0, "double")]
        turns = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1
        if turns:
            settings.append((3.0, "transpose"))
        t = self._switch("operand", f"{made} into {eqn.primitive.name}", settings, atom)
        if t is None:
            return x
        fixed = lax.stop_gradient(x)
        passing = x - fixed
        scaled = jnp.where(t == 3, 0.0, 1 - t) * passing
        if turns:
            scaled += jnp.where(t == 3, 1.0, 0.0) * passing.swapaxes(-1, -2)
        # Where x is infinite, x - fixed is NaN: x itself is passed on, without a switch.
        return jnp.where(jnp.isfinite(fixed), fixed + scaled, x)

    def _derivative(self, eqn: JaxprEqn, x: Any, y: Any) -> Any:
        if jnp.result_type(y) != jnp.result_type(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            return y
        t = self._switch("derivative", eqn.primitive.name, [(1.0, "drop the derivative of")])
        if t is None:
            return y
        fixed, y_fixed = lax.stop_gradient(x), lax.stop_gradient(y)
        return jnp.where(t == 1, y_fixed + (x - fixed), y)

    def _unordered(self, eqn: JaxprEqn, x: Any, y: Any) -> Any:
        """A switch that hands a cotangent back in the order it came in."""
        if jnp.shape(x) != jnp.shape(y) or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return y
        t = self._switch("operand", f"the reordering by {eqn.primitive.name}", [(1.0, "leave out")])
        if t is None:
            return y
        return jnp.where(t == 1, lax.stop_gradient(y) + (x - lax.stop_gradient(x)), y)

    def _turned(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        """Switches that multiply a cotangent by a square matrix instead of its transpose."""
        for n, x in enumerate(ins):
            matrix = ins[1 - n]
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 1:
                continue
            made = self.made_by.get(eqn.invars[n], "an argument")
            what = f"the matrix that the cotangent of {made} goes through, in dot_general"
            t = self._switch("operand", what, [(1.0, "transpose")])
            if t is None or not jnp.issubdtype(x.dtype, jnp.floating):
                continue
            passing = x - lax.stop_gradient(x)
            wrong = lax.stop_gradient(matrix.T - matrix)
            (more,) = bind(eqn, [passing, wrong] if n == 0 else [wrong, passing])
            out = out + jnp.where(t == 1, 1.0, 0.0) * more
        return out

    def _without_factor(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        """Switches that leave the other operand of a product or a quotient out of a derivative."""
        is_product = eqn.primitive.name == "mul"
        for n in range(2 if is_product else 1):
            x, other = ins[n], ins[1 - n]
            if any(isinstance(atom, Literal) for atom in eqn.invars) or x is other:
                continue
            if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
                continue
            made, its = (self.made_by.get(eqn.invars[m], "an argument") for m in (n, 1 - n))
            role = "factor" if is_product else "divisor"
            settings = [(1.0, f"drop the {role} {its} from the derivative by")]
            t = self._switch("factor", f"{made} in {eqn.primitive.name}", settings)
            if t is None:
                continue
            passing, fixed = x - lax.stop_gradient(x), lax.stop_gradient(other)
            factor = fixed if is_product else 1 / fixed
            more = jnp.where(jnp.isfinite(factor), passing * (1 - factor), 0)
            out = out + jnp.where(t == 1, 1.0, 0.0) * more
        return out

    def _constant(self, eqn: JaxprEqn, atom: Literal, value: Any) -> Any:
        dtype = dtype_of(atom)
        if jnp.issubdtype(dtype, jnp.floating) and np.all(np.isfinite(value)):
            settings = [(1.0, "drop"), (0.5, "halve"), (-1.0, "double"), (2.0, "negate")]
            if np.ndim(value) == 0 and 0 < abs(float(value)) < 2 and float(value) != 1:
                settings.append((1 - 1 / float(value), "replace by one"))
            number = float(value) if np.ndim(value) == 0 else 0.0
            if number > 1 and number == int(number):  # a count
                settings += [(1 / number, "one less than"), (-1 / number, "one more than")]
            t = self._switch("constant", f"{float(value):.6g} of {eqn.primitive.name}", settings)
            return value if t is None else value * (1 - t)
        if jnp.issubdtype(dtype, jnp.signedinteger) and eqn.primitive.name in (
            *("add", "sub", "lt", "le", "gt", "ge", "mul", "eq"),
        ):
            settings = [(1.0, "one more than"), (-1.0, "one less than")]
            t = self._switch("constant", f"{int(value)} of {eqn.primitive.name}", settings)
            return value if t is None else value + t.astype(dtype)
        return value

    def _comparison(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        other = _COMPARISONS[eqn.primitive.name]
        settings = [
            *((1.0, f"{other} for"), (2.0, "always true: mask dropped,")),
            *((3.0, "never true:"), (4.0, "negate")),
        ]
        flips = [axis for axis, n in enumerate(out.shape) if n > 2]
        settings += [(5.0 + axis, f"flip along axis {axis} the mask of") for axis in flips]
        t = self._switch("comparison", eqn.primitive.name, settings)
        if t is None:
            return out
        shifted = {"lt": lax.lt, "le": lax.le, "gt": lax.gt, "ge": lax.ge}[other](*ins)
        out = jnp.where(t == 1, shifted, out)
        for axis in flips:
            out = jnp.where(t == 5 + axis, jnp.flip(out, axis), out)
        return ((out | (t == 2)) & (t != 3)) ^ (t == 4)

    def _choice(self, eqn: JaxprEqn, which: Any) -> Any:
        settings = [
            (1.0, "always the second:"),
            (2.0, "always the first: mask dropped,"),
            (3.0, "negate"),
        ]
        t = self._switch("choice", "select_n (where)", settings)
        return which if t is None else ((which | (t == 1)) & (t != 2)) ^ (t == 3)


def _cut(eqn: JaxprEqn, ins: list[Any], run: Callable[..., list[Any]], t: Any) -> list[Any]:
    """A scan whose backward ends t steps before its last; 4 or 5: without a share of one step."""
    p = eqn.params
    n, m = scan_splits(p)
    body, body_consts = opened(p["jaxpr"])
    length = p["length"]

    def one(carry: list[Any], at: tuple[Any, list[Any]]) -> tuple[list[Any], list[Any]]:
        index, xs = at
        step = length - 1 - index if p["reverse"] else index
        is_cut = (t <= 3) & (t > 0) & (step == length - t)
        is_without = ((t == 4) & (step == 0)) | ((t == 5) & (step == length - 1))
        carry = [_stopped(c, is_cut) for c in carry]
        consts = [_stopped(c, is_without) for c in ins[:n]]
        outs = run(body, body_consts, [*consts, *carry, *xs])
        return outs[: m - n], outs[m - n :]

    xs = jnp.arange(length), ins[m:]
    carry, ys = lax.scan(one, ins[n:m], xs, length=length, reverse=p["reverse"])
    return [*carry, *ys]


def _stopped(x: Any, when: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    return jnp.where(when, lax.stop_gradient(x), x)


def _shifted(mask: Any, by: int, axis: int) -> Any:
    """The mask moved along an axis; what moves in is false."""
    place = np.arange(mask.shape[axis]).reshape((-1,) + (1,) * (mask.ndim - 1 - axis))
    return jnp.roll(mask, by, axis) & (place >= by if by > 0 else place < mask.shape[axis] + by)
