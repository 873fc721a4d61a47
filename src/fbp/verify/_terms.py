"""Which single change to the reference reproduces a wrong gradient?

The function is run with a switch at every place where a backward pass can go wrong: on the way of
each cotangent into an operand (drop it, flip its sign, scale it, transpose it), at every local
derivative of one operand (leave it out), at every constant (zero, halve, double it), and at every
comparison (shift its boundary, make it always or never true). One program has all the switches.

A gradient is linear in what passes through one place: with g(1) the gradient when that is dropped,
the share of the place is g(0) - g(1), and a residual that is a multiple of it names place and
factor at once.
"""

import dataclasses
import itertools
import linecache
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from fbp._layer import Array
from fbp.verify._patterns import close, name_of_factor
from fbp.verify._program import Interpreter, dtype_of, source_of
from fbp.verify._runs import Runs, quick

_COMPARISONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}
_UNARY = (
    *("tanh", "logistic", "exp", "log", "log1p", "expm1", "sin", "cos", "erf", "erfc", "sqrt"),
    *("rsqrt", "integer_pow", "square", "abs", "neg", "cbrt", "sign", "erf_inv", "atan", "asinh"),
)
# More places than this are looked at only in part: the first ones.
_MOST = 400


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a switch is.

    Attributes:
      kind: "operand", "derivative", "constant", "comparison" or "choice".
      what: the operation, and the operand's own.
      settings: what its switch can be set to, and how that reads.
      source: file and line, if known.
    """

    kind: str
    what: str
    settings: tuple[tuple[float, str], ...]
    source: tuple[str, int] | None


class Switched(Interpreter):
    """Evaluates a program with switches; without theirs, only lists where they are."""

    def __init__(self, switches: Array | None = None) -> None:
        self.switches = switches
        self.places: list[Place] = []
        self.outer: tuple[str, int] | None = None
        self.made_by: dict[Any, str] = {}
        self.depth = 0

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        before = self.outer
        self.outer = source_of(eqn) or before
        outs = super().equation(eqn, ins)
        self.outer = before
        for var in eqn.outvars:
            self.made_by[var] = eqn.primitive.name
        return outs

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        # A loop's body is traced once or twice: its switches are the same ones each time.
        start = len(self.places)

        def again(program: Any, consts: Any, args: Any) -> list[Any]:
            del self.places[start:]
            return run(program, consts, args)

        run = self.run
        self.run = again if self.depth == 0 else run  # type: ignore[method-assign]
        self.depth += 1
        try:
            return super().scan(eqn, ins)
        finally:
            self.depth -= 1
            self.run = run  # type: ignore[method-assign]

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        plain = Interpreter()
        return plain.loop(eqn, ins)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        plain = Interpreter()
        return plain.cond(eqn, ins)

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
        elif name in _UNARY:
            outs = [self._derivative(eqn, changed[0], outs[0])]
        return outs

    def constant(self, value: Any) -> Any:
        """A mask that the function holds: used in several places, it is left out of all at once."""
        if not hasattr(value, "dtype") or value.dtype.kind != "b" or not value.ndim:
            return value
        settings = [(1.0, "always true: mask dropped,"), (2.0, "never true:"), (3.0, "negate")]
        t = self._switch("choice", "a constant mask (where)", settings)
        return value if t is None else ((value | (t == 1)) & (t != 2)) ^ (t == 3)

    def _switch(self, kind: str, what: str, settings: Sequence[tuple[float, str]]) -> Any:
        number = len(self.places)
        self.places.append(Place(kind, what, tuple(settings), self.outer))
        if self.switches is None or number >= len(self.switches):
            return None
        return self.switches[number]

    def _operand(self, eqn: JaxprEqn, atom: Any, x: Any) -> Any:
        made = self.made_by.get(atom, "an argument")
        settings = [(1.0, "drop")]
        turns = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1
        if turns:
            settings.append((3.0, "transpose"))
        t = self._switch("operand", f"{made} into {eqn.primitive.name}", settings)
        if t is None:
            return x
        fixed = lax.stop_gradient(x)
        passing = x - fixed
        scaled = jnp.where(t == 3, 0.0, 1 - t) * passing
        if turns:
            scaled += jnp.where(t == 3, 1.0, 0.0) * passing.swapaxes(-1, -2)
        # Where x is infinite its difference with itself is not a number, and passes nothing.
        return jnp.where(jnp.isfinite(fixed), fixed + scaled, x)

    def _derivative(self, eqn: JaxprEqn, x: Any, y: Any) -> Any:
        if jnp.result_type(y) != jnp.result_type(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            return y
        t = self._switch("derivative", eqn.primitive.name, [(1.0, "drop the derivative of")])
        if t is None:
            return y
        fixed, y_fixed = lax.stop_gradient(x), lax.stop_gradient(y)
        return jnp.where(t == 1, y_fixed + (x - fixed), y)

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
        t = self._switch("comparison", eqn.primitive.name, settings)
        if t is None:
            return out
        shifted = {"lt": lax.lt, "le": lax.le, "gt": lax.gt, "ge": lax.ge}[other](*ins)
        out = jnp.where(t == 1, shifted, out)
        return ((out | (t == 2)) & (t != 3)) ^ (t == 4)

    def _choice(self, eqn: JaxprEqn, which: Any) -> Any:
        settings = [
            (1.0, "always the second:"),
            (2.0, "always the first: mask dropped,"),
            (3.0, "negate"),
        ]
        t = self._switch("choice", "select_n (where)", settings)
        return which if t is None else ((which | (t == 1)) & (t != 2)) ^ (t == 3)


class Terms:
    """The reference with switches, compiled once."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        program = runs.program
        if any(jnp.issubdtype(a.dtype, jnp.complexfloating) for a in runs.out_avals):
            raise TypeError("complex outputs have no switches")

        def gradients(values: list[Any], dys: list[Any], places: Any, settings: Any) -> Any:
            switches = jnp.zeros(len(self.places)).at[places].set(settings)

            def f(values: list[Any]) -> list[Any]:
                return Switched(switches).run(program.jaxpr, program.consts, values)

            return runs.pull(f, values, dys)[1]

        with jax.enable_x64(True):
            wide = runs.wide(runs.subject.values)
            listing = Switched()
            jax.eval_shape(lambda values: listing.run(program.jaxpr, program.consts, values), wide)
            self.places = listing.places[:_MOST]
            dys = [np.zeros(a.shape, np.float64) for a in runs.out_avals]
            self.gradients = quick(gradients, wide, dys, np.zeros(2, np.int64), np.zeros(2))

    @classmethod
    def of(cls, runs: Runs) -> "Terms":
        """The switches of these runs, compiled once."""
        if not hasattr(runs.shared, "terms"):
            runs.shared.terms = cls(runs)
        return runs.shared.terms

    def explain(
        self,
        values: list[Any],
        dys: list[Any],
        leaves: dict[int, tuple[Any, Any]],
        sizes: dict[str, int],
    ) -> list[tuple[int, str, str]]:
        """Changes that reproduce wrong gradients: (leaf, how, text).

        Args:
          values: the arguments.
          dys: the cotangents.
          leaves: by place among the differentiable: the gradient by the rule, and the reference.
          sizes: sizes at hand, by which factors are named.
        """
        found: dict[tuple[int, str], list[Place]] = {}
        shares: dict[int, list[tuple[Place, Any]]] = {k: [] for k in leaves}
        together: list[tuple[int, str, str]] = []
        with jax.enable_x64(True):
            wide = self.runs.wide(values)
            for number, place in enumerate(self.places):
                for setting, says in place.settings:
                    changed = self._changed(wide, dys, (number, setting))
                    for k, (got, want) in leaves.items():
                        how = _matches(got, want, changed[k], says, place, sizes)
                        if how:
                            found.setdefault((k, how), []).append(place)
                        elif place.kind == "operand" and says == "drop":
                            _add_share(shares[k], place, want - changed[k])
            named = {n for n, _ in found}
            for k, (got, want) in leaves.items():
                if k not in named:
                    together += [(k, "", text) for text in _pairs(got - want, shares[k], sizes)]
            two = {k: v for k, v in leaves.items() if k not in named}
            for k, how, place in self._constants(wide, dys, two) if two else ():
                found.setdefault((k, how), []).append(place)
        return [(k, how, self._text(how, places)) for (k, how), places in found.items()] + together

    def _changed(self, wide: Any, dys: Any, *switches: tuple[int, float]) -> list[np.ndarray]:
        """The reference gradients with one or two switches set."""
        places, settings = zip(*switches, *[switches[0]] * (2 - len(switches)), strict=True)
        return jax.device_get(
            self.gradients(wide, dys, np.asarray(places, np.int64), np.asarray(settings, float))
        )

    def _constants(
        self, wide: Any, dys: Any, leaves: dict[int, tuple[Any, Any]]
    ) -> list[tuple[int, str, Place]]:
        """Two constants that both have to change, as 1 - s and s / n have."""
        settings = [
            (number, t, says, place)
            for number, place in enumerate(self.places)
            if place.kind == "constant"
            for t, says in place.settings
            if says in ("drop", "replace by one")
        ][:16]
        found = []
        for (n, t, says, place), (m, u, its, other) in itertools.combinations(settings, 2):
            if n == m:
                continue
            changed = self._changed(wide, dys, (n, t), (m, u))
            for k, (got, want) in leaves.items():
                if close(got, changed[k]) and not close(changed[k], want):
                    found.append((k, f"{says} {place.what} and {its}", other))
        return found

    def _text(self, how: str, places: list[Place]) -> str:
        first = next((p for p in places if p.source), places[0])
        others = [p.what for p in places if p is not first]
        also = f" (the same: {'; '.join(dict.fromkeys(others))})" if others else ""
        return f"{how} {first.what}{_quoted(first.source)} in the reference reproduces it{also}"[
            :400
        ]


def _matches(
    got: Any, want: Any, changed: Any, says: str, place: Place, sizes: dict[str, int]
) -> str:
    if not np.isfinite(changed).all() or close(changed, want):
        return ""
    if close(got, changed, max(np.abs(got).max(), 1e-3 * np.abs(want).max())):
        return says
    if place.kind == "operand" and says == "drop":
        share, off = want - changed, got - want
        factor = float(np.vdot(share, off) / max(np.vdot(share, share), 1e-300))
        if share.size > 1 and close(factor * share, off, np.abs(off).max()):
            if abs(factor + 2) < 1e-6:
                return "negate"
            return f"scale by {name_of_factor(1 + factor, sizes)}"
    return ""


def _add_share(shares: list[tuple[Place, Any]], place: Place, share: Any) -> None:
    size = np.abs(share).max(initial=0.0)
    is_known = any(close(share, other) for _, other in shares)
    if size > 0 and np.isfinite(size) and len(shares) < 40 and not is_known:
        shares.append((place, share))


def _pairs(off: Any, shares: list[tuple[Place, Any]], sizes: dict[str, int]) -> Iterator[str]:
    """Two places whose shares, each with one factor, make up a residual of more elements."""
    for i, (place, share) in enumerate(shares):
        for other, its in shares[:i]:
            system = np.stack([share.ravel(), its.ravel()], 1)
            if system.shape[0] < 6:
                return
            factors, *_ = np.linalg.lstsq(system, off.ravel(), rcond=1e-9)
            if not close(system @ factors, off.ravel(), np.abs(off).max()):
                continue
            hows = [_of_factor(f, sizes) for f in factors]
            parts = zip(hows, (place, other), strict=True)
            said = ", and ".join(f"{how} {p.what}{_quoted(p.source)}" for how, p in parts)
            yield f"{said} in the reference: together they reproduce it"[:400]
            return


def _of_factor(factor: float, sizes: dict[str, int]) -> str:
    if abs(factor + 1) < 1e-6:
        return "drop"
    if abs(factor + 2) < 1e-6:
        return "negate"
    return f"scale by {name_of_factor(1 + factor, sizes)}"


def _quoted(source: tuple[str, int] | None) -> str:
    if source is None:
        return ""
    file, line = source
    text = linecache.getline(file, line).strip()
    return f" at {os.path.basename(file)}:{line}" + (f" `{text[:80]}`" if text else "")
