"""Records how close a run of a program comes to a kink, and how large its exponents are."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from fbp._layer import Array
from fbp.verify.program._interpreter import CALLS, Interpreter, looped, scanned
from fbp.verify.program._program import dtype_of, equations, opened, programs_in

SOLVE = "custom_linear_solve"
# Primitives that compare their operands.
COMPARED = ("max", "min", "lt", "le", "gt", "ge", "eq", "ne", "clamp", "lt_to", "le_to")
_AT_ZERO = ("abs", "sign")
_EXTREME = ("reduce_max", "reduce_min", "argmax", "argmin")
_WINDOWS = ("reduce_window_max", "reduce_window_min", "cummax", "cummin", "sort", "top_k")
_STEPS = ("floor", "ceil", "round")
EXPONENTIALS = ("exp", "exp2")
# exp of less is 0 beside 1, in float32: that of a mask, such as -1e9, whose rounding is no matter.
_MASKED = -16.0


class Margins(Interpreter):
    """Evaluates a program and records how close its comparisons are to a tie, relatively.

    It also records how large the arguments of its exponentials are, before a maximum is subtracted
    from them. Only equations that depend on
    the differentiated inputs count: a mask made from positions has no kinks.

    Args:
      moving: the variables that depend on the differentiated inputs: at first those inputs; the
        variables computed from them are added.
    """

    def __init__(self, moving: set[Any]) -> None:
        self.margins: list[Array] = []
        self.exponents: list[Array] = []
        self.minuends: dict[Any, Array] = {}
        self.residuals: list[Array] = []
        self.moving = moving

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        moving = [not isinstance(v, Literal) and v in self.moving for v in eqn.invars]
        if not any(moving):
            return Interpreter().equation(eqn, ins)
        self.moving.update(eqn.outvars)
        for inner, first in _inner_inputs(eqn):
            now = moving[first:]
            if eqn.primitive.name in ("scan", "while"):
                now = [True] * len(now)  # later iterations may depend on all of it
            self.moving.update(v for v, m in zip(inner, now, strict=False) if m)
        return super().equation(eqn, ins)

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        margin = _margin(eqn, ins)
        if margin is not None:
            self.margins.append(margin)
        if eqn.primitive.name == "sub":
            self.minuends[eqn.outvars[0]] = ins[0]
        if eqn.primitive.name in EXPONENTIALS:
            # Of exp(a - b), as in a softmax, a is what rounding matters of.
            size = jnp.abs(self.minuends.get(eqn.invars[0], ins[0]))
            size = jnp.broadcast_to(size, ins[0].shape)
            self.exponents.append(jnp.where(ins[0] > _MASKED, size, 0).max(initial=0))
        outs = super().primitive(eqn, ins)
        if eqn.primitive.name == SOLVE:
            self.residuals.append(_residual(eqn, ins, outs))
        return outs

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        # Tracers must not leave the body of a loop: the margin and exponent are two more outputs.
        *outs, margins, minus = scanned(eqn, ins, self._inside)
        return self._seen(outs, margins.min(initial=jnp.inf), minus.min(initial=0))

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        index, *operands = ins
        branches = [
            lambda *args, held=held: self._inside(*opened(held), args)
            for held in eqn.params["branches"]
        ]
        *outs, margin, minus_exponent = lax.switch(index, branches, *operands)
        return self._seen(outs, margin, minus_exponent)

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        least = [jnp.asarray(start, jnp.float32) for start in (jnp.inf, 0)]
        *outs, margin, minus_exponent = looped(eqn, ins, self._inside, least)
        return self._seen(outs, margin, minus_exponent)

    def _inside(self, program: Any, consts: Any, args: Any) -> list[Any]:
        """The outputs of a program inside another, its smallest margin, minus its largest exponent.

        The exponent is negated because `looped` keeps the minimum of appended outputs.
        """
        inner = Margins(self.moving)
        return [*inner.run(program, consts, args), inner.smallest(), -inner.exponent()]

    def _seen(self, outs: list[Any], margin: Array, minus_exponent: Array) -> list[Any]:
        self.margins.append(margin)
        self.exponents.append(-minus_exponent)
        return outs

    def smallest(self) -> Array:
        """The smallest margin of all."""
        small = [jnp.asarray(m, jnp.float32) for m in self.margins]
        return jnp.stack(small).min() if small else jnp.asarray(jnp.inf, jnp.float32)

    def exponent(self) -> Array:
        """The largest argument of an exponential."""
        large = [jnp.asarray(e, jnp.float32) for e in self.exponents]
        return jnp.stack(large).max() if large else jnp.asarray(0, jnp.float32)

    def residual(self) -> Array:
        """The largest relative residual of a linear solve, if none is in a loop or branch."""
        left = [jnp.asarray(r, jnp.float32) for r in self.residuals]
        return jnp.stack(left).max() if left else jnp.asarray(0, jnp.float32)


def residual_of(program: ClosedJaxpr, values: Sequence[Any]) -> Array:
    """`Margins.residual` of a program that is run on values of any float dtype."""
    if not any(eqn.primitive.name == SOLVE for eqn in equations(program.jaxpr)):
        return jnp.asarray(0, jnp.float32)
    margins = Margins(set(program.jaxpr.invars))
    fitting = [
        lax.convert_element_type(v, a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else v
        for v, a in zip(values, program.in_avals, strict=True)
    ]
    margins.run(program.jaxpr, program.consts, fitting)
    return margins.residual()


def _residual(eqn: JaxprEqn, ins: list[Any], outs: list[Any]) -> Array:
    """|A x - b| / |b| of a `custom_linear_solve` of A x = b."""
    lengths, matvec = eqn.params["const_lengths"], eqn.params["jaxprs"].matvec
    b = ins[sum(n or 0 for n in lengths) :]
    ax = Interpreter().run(*opened(matvec), [*ins[: lengths.matvec], *outs[: len(b)]])
    off = jnp.stack([jnp.abs(u - v).max(initial=0) for u, v in zip(ax, b, strict=True)]).max()
    size = jnp.stack([jnp.abs(v).max(initial=0) for v in b]).max()
    return off / jnp.where(size == 0, 1, size)


def _inner_inputs(eqn: JaxprEqn) -> list[tuple[Sequence[Any], int]]:
    """The inputs of each program an equation holds, and the index of the first one's operand."""
    p, name = eqn.params, eqn.primitive.name
    if name in CALLS and CALLS[name] in p:
        return [(opened(p[CALLS[name]])[0].invars, 0)]
    if name == "scan":
        return [(opened(p["jaxpr"])[0].invars, 0)]
    if name == "cond":
        return [(opened(held)[0].invars, 1) for held in p["branches"]]
    if name == "while":
        return [(opened(p[held])[0].invars, 0) for held in ("cond_jaxpr", "body_jaxpr")]
    return []


def hides_kinks(program: ClosedJaxpr) -> bool:
    """Whether a program compares floats where `Margins` does not see it: inside a shard_map, or in
    what it calls outside of JAX."""
    if any(eqn.primitive.name == "pure_callback" for eqn in equations(program.jaxpr)):
        return True
    return any(
        inner.primitive.name in COMPARED and jnp.issubdtype(dtype_of(inner.invars[0]), jnp.floating)
        for eqn in equations(program.jaxpr)
        if eqn.primitive.name == "shard_map"
        for held in programs_in(eqn)
        for inner in equations(held)
    )


def _margin(eqn: JaxprEqn, ins: Sequence[Any]) -> Array | None:
    name = eqn.primitive.name
    if not ins or not jnp.issubdtype(jnp.result_type(ins[0]), jnp.floating):
        return None
    if not getattr(eqn.invars[0].aval, "size", 1):
        return None
    if name in _AT_ZERO:
        return jnp.abs(ins[0]).min()
    if name == "clamp":
        low, x, high = ins
        return jnp.minimum(_gap(x, low), _gap(x, high))
    if name in COMPARED:
        is_itself = eqn.invars[0] is eqn.invars[1]  # x != x is a test for NaN
        return None if is_itself else _gap(*ins)
    if name in _STEPS:
        doubled = 2 * ins[0]
        return jnp.abs(doubled - jnp.round(doubled)).min()
    if name in _EXTREME:
        x = ins[0] if name.endswith("max") else -ins[0]
        axes = tuple(eqn.params["axes"])
        top = x.max(axes, keepdims=True)
        below = jnp.where(x == top, -jnp.inf, x).max(axes, keepdims=True)
        ties = (x == top).sum(axes) > 1
        gap = jnp.where(jnp.isfinite(below), (top - below) / (1 + jnp.abs(top)), jnp.inf)
        return jnp.where(ties.any(), 0.0, gap.min())
    if name in _WINDOWS:
        x = jnp.sort(ins[0].ravel())
        return jnp.diff(x).min() if x.size > 1 else None
    return None


def _gap(a: Any, b: Any) -> Array:
    gap = jnp.abs(a - b) / (1 + jnp.minimum(jnp.abs(a), jnp.abs(b)))
    return jnp.where(jnp.isnan(gap), jnp.inf, gap).min()
