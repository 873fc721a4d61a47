"""Properties of a program that a check depends on."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fbp.verify.program._margins import SOLVE
from fbp.verify.program._program import RULES, equations, programs_in, scan_splits

_MADE_BY_HAND = {*RULES, "pallas_call", SOLVE}


def primitives(program: ClosedJaxpr) -> set[str]:
    """The names of the primitives of a program."""
    return {eqn.primitive.name for eqn in equations(program.jaxpr)}


def rules_of(program: ClosedJaxpr) -> list[str]:
    """The names of the custom rules, kernels and custom linear solves in a program."""
    eqns = equations(program.jaxpr)
    return sorted({_name_of(eqn) for eqn in eqns if eqn.primitive.name in _MADE_BY_HAND})


def effects_of(program: ClosedJaxpr) -> list[str]:
    """The side effects of a program, but for debugging and for arrays that it makes, changes and
    reads itself, as `jax.new_ref` does."""
    quiet = ("Debug", "InternalMutableArray")
    wanted = {e for e in program.effects if not any(q in type(e).__name__ for q in quiet)}
    return sorted({str(e) for e in _effects(program.jaxpr) if e in wanted})


def iterates(program: ClosedJaxpr) -> bool:
    """Whether a program has a loop that may run until something converges."""
    return any(map(_may_converge, equations(program.jaxpr)))


def multiplies_masks(program: Any) -> bool:
    """Whether a program multiplies by a mask: by booleans made floats."""
    for eqn in program.eqns:
        if any(multiplies_masks(held) for held in programs_in(eqn)):
            return True
    masks = {
        eqn.outvars[0]
        for eqn in program.eqns
        if eqn.primitive.name == "convert_element_type"
        and getattr(eqn.invars[0].aval, "dtype", None) == np.bool_
    }
    products = [eqn for eqn in program.eqns if eqn.primitive.name == "mul"]
    return any(v in masks for eqn in products for v in eqn.invars if not isinstance(v, Literal))


def longest_sum(program: ClosedJaxpr) -> float:
    """The number of terms in the longest sum of a program."""
    longest = 1.0
    for eqn in equations(program.jaxpr):
        name, shapes = eqn.primitive.name, [getattr(x.aval, "shape", ()) for x in eqn.invars]
        sizes = [math.prod(shape) for shape in shapes]
        out = max(1, math.prod(getattr(eqn.outvars[0].aval, "shape", ()))) if eqn.outvars else 1
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            longest = max(longest, math.prod(shapes[0][axis] for axis in contracted))
        elif name == "conv_general_dilated":
            spec = eqn.params["dimension_numbers"].rhs_spec
            longest = max(longest, sizes[1] / max(1, shapes[1][spec[0]]))
        elif name in ("reduce_sum", "reduce_window_sum"):
            longest = max(longest, sizes[0] / out)
        elif name.startswith("scatter") and len(sizes) > 2:
            longest = max(longest, sizes[2] / out)
        elif name == "cumsum":
            longest = max(longest, shapes[0][eqn.params["axis"]])
    return longest


def _name_of(eqn: Any) -> str:
    held = eqn.params.get("call_jaxpr")
    info = getattr(getattr(held, "jaxpr", None), "debug_info", None)
    said = str(getattr(info, "func_src_info", "") or eqn.params.get("name") or eqn.primitive.name)
    return said.split(" at ")[0]


def _effects(program: Any) -> Iterator[Any]:
    """Side effects, except those of kernels, which are callbacks in interpret mode."""
    for eqn in program.eqns:
        inside = list(programs_in(eqn))
        if eqn.primitive.name == "pallas_call":
            continue
        if not inside:
            yield from eqn.effects
        for held in inside:
            yield from _effects(held)


def _may_converge(eqn: Any) -> bool:
    """Whether an equation is a `while`, or a scan of more than 8 steps that reads no inputs."""
    if eqn.primitive.name != "scan":
        return eqn.primitive.name == "while"
    _, inputs = scan_splits(eqn.params)
    return len(eqn.invars) == inputs and eqn.params["length"] > 8
