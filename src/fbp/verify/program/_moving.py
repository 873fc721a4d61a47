"""Which values of a program depend on some of its inputs, as a derivative sees it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal

from fbp.verify.program._interpreter import CALLS
from fbp.verify.program._program import opened, scan_splits


def primitives_reached(program: Any, inputs: Sequence[bool]) -> set[str]:
    """The names of the primitives that a tangent of some inputs reaches."""
    names: set[str] = set()
    moving_outputs(program, inputs, names)
    return names


def moving_outputs(
    program: Any, inputs: Sequence[bool], names: set[str] | None = None
) -> list[bool]:
    """For each output, whether a tangent of some inputs can reach it.

    Integers carry none, nor does what is behind a stop_gradient. Loops are followed until nothing
    changes.

    Args:
      program: the program.
      inputs: for each input, whether it has a tangent.
      names: takes the names of the primitives that a tangent reaches.
    """
    names = set() if names is None else names
    jaxpr, _ = opened(program)
    moving = {v for v, moves in zip(jaxpr.invars, inputs, strict=True) if moves}
    for eqn in jaxpr.eqns:
        ins = [not isinstance(v, Literal) and v in moving for v in eqn.invars]
        if any(ins):
            names.add(eqn.primitive.name)
            outs = zip(eqn.outvars, _outputs(eqn, ins, names), strict=True)
            moving |= {v for v, moves in outs if moves and _is_float(v)}
    return [not isinstance(v, Literal) and v in moving for v in jaxpr.outvars]


def _outputs(eqn: Any, ins: list[bool], names: set[str]) -> list[bool]:
    name, params = eqn.primitive.name, eqn.params
    if name == "stop_gradient":
        return [False]
    if name in CALLS and CALLS[name] in params:
        return moving_outputs(params[CALLS[name]], ins, names)
    if name == "cond":
        branches = [moving_outputs(branch, ins[1:], names) for branch in params["branches"]]
        return [any(outs) for outs in zip(*branches, strict=True)]
    if name == "scan":
        n, m = scan_splits(params)
        carry = ins[n:m]
        while True:
            outs = moving_outputs(params["jaxpr"], [*ins[:n], *carry, *ins[m:]], names)
            new = [a or b for a, b in zip(carry, outs, strict=False)]
            if new == carry:
                return [*carry, *outs[m - n :]]
            carry = new
    if name == "while":
        n = params["cond_nconsts"]
        m = n + params["body_nconsts"]
        carry = ins[m:]
        while True:
            outs = moving_outputs(params["body_jaxpr"], [*ins[n:m], *carry], names)
            new = [a or b for a, b in zip(carry, outs, strict=True)]
            if new == carry:
                return carry
            carry = new
    return [True] * len(eqn.outvars)


def _is_float(v: Any) -> bool:
    return jnp.issubdtype(getattr(v.aval, "dtype", jnp.int32), jnp.inexact)
