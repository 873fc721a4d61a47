"""Altered versions of a program: without stop_gradient, with longer loops, or with broken ties."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from fbp.verify.program._interpreter import Interpreter, looped, scanned
from fbp.verify.program._margins import COMPARED
from fbp.verify.program._program import opened, scan_splits

Function = Callable[..., list[Any]]
# How many more steps a loop runs, and the relative change at which it still counts as converged.
_MORE_STEPS, _STILL = 64, 1e-2
# The relative amount by which ties are broken: larger than rounding errors of float64.
_NUDGE = 1e-7


def free_of_stops(program: ClosedJaxpr) -> Function:
    """The function of a program with every stop_gradient replaced by the identity."""
    return _function(program, _Free())


def refined(program: ClosedJaxpr) -> Function:
    """The function of a program whose converged loops run for more steps.

    A loop is assumed to converge if more steps hardly change its carry; then the carry after more
    steps is closer to its limit. Of some loops a part never comes to rest, such as the momentum or
    the step size of a descent: the outermost loops go on if that hardly changes the outputs.
    """

    def run(*args: Any) -> list[Any]:
        outs, loose = (
            _Refined(is_loose).run(program.jaxpr, program.consts, args)
            for is_loose in (False, True)
        )
        floats = [n for n, a in enumerate(outs) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
        still = jnp.stack([_is_still(outs[n], loose[n]) for n in floats]).all()
        return [jnp.where(still, loose[n], a) if n in floats else a for n, a in enumerate(outs)]

    return run


def nudged(program: ClosedJaxpr, signs: Sequence[int]) -> Function:
    """The function of a program with its ties broken.

    The first operand of the n-th comparison (of clamp, the clamped one) is slightly increased if
    `signs[n]` is 1, and decreased if it is -1. After the last sign, the signs repeat.
    """
    return lambda *args: _Nudged(signs).run(program.jaxpr, program.consts, args)


def _function(program: ClosedJaxpr, interpreter: Interpreter) -> Function:
    return lambda *args: interpreter.run(program.jaxpr, program.consts, args)


class _Free(Interpreter):
    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return ins if eqn.primitive.name == "stop_gradient" else super().primitive(eqn, ins)


class _Nudged(Interpreter):
    def __init__(self, signs: Sequence[int]) -> None:
        self.signs = itertools.cycle(signs)

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name in COMPARED and jnp.issubdtype(jnp.result_type(ins[0]), jnp.floating):
            if eqn.invars[0] is eqn.invars[-1]:
                return super().primitive(eqn, ins)  # x != x, which asks for NaN
            moved = 1 if name == "clamp" else 0  # the first operand of clamp is the lower bound
            at = lax.stop_gradient(ins[moved])
            ins = list(ins)
            ins[moved] = ins[moved] + next(self.signs) * _NUDGE * (1 + jnp.abs(at))
        return super().primitive(eqn, ins)


class _Refined(Interpreter):
    """Runs loops for more steps.

    Args:
      is_loose: whether the outermost loops go on if any part of their carry is at rest, not all.
    """

    def __init__(self, is_loose: bool) -> None:
        self.is_loose = is_loose
        self.inside = _Refined(False) if is_loose else self

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        p = eqn.params
        n = p["cond_nconsts"]
        body = opened(p["body_jaxpr"])
        consts = ins[n : n + p["body_nconsts"]]
        return self._further(
            looped(eqn, ins, self.inside.run),
            lambda carry: self.inside.run(*body, [*consts, *carry]),
        )

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        outs = scanned(eqn, ins, self.inside.run)
        n, m = scan_splits(eqn.params)
        if len(ins) > m or eqn.params["length"] <= 8:
            return outs
        body = opened(eqn.params["jaxpr"])
        count = m - n
        carry = self._further(
            outs[:count], lambda carry: self.inside.run(*body, [*ins[:n], *carry])[:count]
        )
        return [*carry, *outs[count:]]

    def _further(
        self, carry: Sequence[Any], once: Callable[[Sequence[Any]], list[Any]]
    ) -> list[Any]:
        on, _ = lax.scan(lambda c, _: (once(c), None), list(carry), length=_MORE_STEPS)
        floats = [jnp.issubdtype(jnp.result_type(a), jnp.inexact) for a in carry]
        pairs = list(zip(carry, on, floats, strict=True))
        still = [_is_still(a, b) for a, b, is_float in pairs if is_float]
        if not still:
            return list(carry)
        converges = jnp.stack(still).any() if self.is_loose else jnp.stack(still).all()
        return [jnp.where(converges, b, a) if is_float else a for a, b, is_float in pairs]


def _is_still(a: Any, b: Any) -> Any:
    return (jnp.abs(b - a) <= _STILL * (1e-3 + jnp.abs(a))).all()
