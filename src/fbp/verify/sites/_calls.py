"""The call of a custom rule in a program, as a subject that can be checked by itself."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._interpreter import bind
from fbp.verify.program._program import dtype_of, equations
from fbp.verify.rule._rule import fingerprint
from fbp.verify.rule._subject import Leaf, Subject
from fbp.verify.sites._reached import Reached, operands_of, sites_of
from fbp.verify.sites._remembered import remembered
from fbp.verify.sites._sites import rule_source

_WIDE = (np.dtype(np.float64), np.dtype(np.complex128))


def _used_outputs(one: Reached) -> list[int]:
    """The outputs of a call that the loss depends on, by their cotangents; all if there is none."""
    used = [i for i, c in enumerate(one.cotangents) if c is not None and np.any(c)]
    return used or list(range(len(one.site.eqn.outvars)))


def used_cotangents(one: Reached) -> list[np.ndarray]:
    """The cotangents of the outputs that the loss depends on."""
    cotangents = one.at(-1)[1]
    return [c for c in (cotangents[i] for i in _used_outputs(one) if cotangents) if c is not None]


def likeness(one: Reached, subject: Subject) -> Any:
    """A key that is equal for calls of the same rule with the same constants and shapes."""
    program = fingerprint(subject)
    return one.site.name, one.site.number if program is None else program


def place_of(one: Reached) -> str:
    """The file and line of a call, or of its rule; "" if neither is known."""
    _, file, line = rule_source(one.site.eqn)
    if one.site.source is not None:
        file, line = one.site.source
    return f"{os.path.basename(file)}:{line}" if file else ""


class Wide(NamedTuple):
    """A call in the program of the same loss traced in float64.

    What a rule and its function choose for their dtype, such as the terms of a series, the
    tolerance of a loop or the digits of a constant, they choose for float64 there.

    Attributes:
      eqn: the call.
      fixed: by index, the operands that do not depend on params.
    """

    eqn: JaxprEqn
    fixed: dict[int, Any]


def in_float64(
    reached: Sequence[Reached], program: ClosedJaxpr, values: Any
) -> Sequence[Wide | None]:
    """For each call, that of the same loss traced in float64; None for all if it makes others.

    Args:
      reached: the calls.
      program: the program of the loss, traced in float64.
      values: its inputs.
    """
    with jax.enable_x64(True):
        sites = sites_of(program, values)
        if [_form(site.eqn) for site in sites] != [_form(one.site.eqn) for one in reached]:
            return [None] * len(reached)
        fixed = [
            [n for n, moves in enumerate(one.moving) if not moves and is_float(one.inputs[n])]
            for one in reached
        ]
        try:
            inputs = operands_of(program, values, fixed)
        except Exception:  # raised by a run-time check of the user's
            return [None] * len(reached)
    found = []
    for site, one, mine, operands in zip(sites, reached, fixed, inputs, strict=True):
        every: list[Any] = [None] * len(one.inputs)
        for n, v in zip(mine, operands, strict=True):
            every[n] = v
        last = every if 0 in site.lengths else Reached(site, every, [], one.moving).at(-1)[0]
        found.append(Wide(site.eqn, {n: last[n] for n in mine}))
    return found


def _form(eqn: JaxprEqn) -> Any:
    atoms = (*eqn.invars, *eqn.outvars)
    return rule_source(eqn), [getattr(v.aval, "shape", ()) for v in atoms]


def subject_of_call(one: Reached, in_float64: Wide | None) -> Subject:
    """The call of a rule as a subject, with the inputs that reach it."""
    inputs, _ = one.at(-1)
    first = _first_alike(one, inputs)

    def f(values: Sequence[Any]) -> list[Any]:
        eqn = one.site.eqn
        is_wide = jax.config.read("jax_enable_x64") and any(v.dtype in _WIDE for v in values)
        if in_float64 is not None and is_wide:
            eqn = in_float64.eqn
        dtypes = [dtype_of(v) for v in eqn.invars]
        fitting = [
            v if is_key(v) or v.dtype == d else jax.lax.convert_element_type(v, d)
            for v, d in zip([values[i] for i in first], dtypes, strict=True)
        ]
        outs = bind(eqn, fitting)
        return [outs[i] for i in used]

    used = _used_outputs(one)
    operands = [n for n, v in enumerate(inputs) if is_float(v) and n >= one.site.constants]
    operands = [n for n in operands if first[n] == n]
    moving = {first[n] for n in range(len(inputs)) if one.moving[n]}.intersection(operands)
    fixed = [n for n in operands if n not in moving]
    floats = moving | _with_gradient(one.site.eqn, f, inputs, fixed)
    leaves = []
    for n, (name, v) in enumerate(zip(one.site.operands, inputs, strict=True)):
        differentiable = n in floats
        if in_float64 is not None and not differentiable:
            v = in_float64.fixed.get(n, v)
        leaves.append(Leaf(name, v if is_key(v) else np.asarray(v), differentiable))
    is_narrow = in_float64 is None
    return Subject(one.site.name, f, tuple(leaves), None, f, as_traced=is_narrow, is_call=True)


def is_sampler(one: Reached) -> bool:
    """Whether a rule is of a function that draws random numbers in a loop until some fit."""
    names = {eqn.primitive.name for eqn in equations(one.site.eqn.params["call_jaxpr"].jaxpr)}
    return "while" in names and any(n.startswith(("random_", "threefry")) for n in names)


def reference_of_call(one: Reached, subject: Subject, reference: Callable[..., Any]) -> Subject:
    """A function of the operands of a call, as what its rule is compared with."""
    used = _used_outputs(one)

    def f(values: Sequence[Any]) -> list[Any]:
        outs = jax.tree.leaves(reference(*values))
        return [outs[i] for i in used]

    name = getattr(reference, "__name__", "the reference")
    return dataclasses.replace(subject, name=name, f=f, original=reference)


def _first_alike(one: Reached, inputs: Sequence[Any]) -> list[int]:
    """For each operand, the first that it has to be equal to: itself, but for `lax.custom_root`.

    That hands what f closes over to f and again to its solvers, and gives only f's a gradient. The
    derivative is only defined for all of them together.
    """
    name, file, _ = rule_source(one.site.eqn)
    first = list(range(len(inputs)))
    if name != "_custom_root" or not file.startswith(os.path.dirname(jax.__file__)):
        return first
    for n, v in enumerate(inputs):
        alike = (m for m in range(n) if is_float(v) and np.array_equal(v, inputs[m]))
        first[n] = first[next(alike, n)]
    return first


def _with_gradient(
    eqn: Any, f: Callable[..., Any], values: Sequence[Any], operands: Sequence[int]
) -> set[int]:
    """The operands that a rule gives a gradient: one that is not zero everywhere."""
    if not operands or eqn.params.get("symbolic_zeros"):
        # It is told what is differentiated, and may refuse. JAX cannot call it again after that.
        return set()

    def floats(moved: Sequence[Any]) -> list[Any]:
        filled = list(values)
        for n, v in zip(operands, moved, strict=True):
            filled[n] = v
        return [out for out in f(filled) if is_float(out)]

    draw = np.random.default_rng(0).standard_normal
    pull = None
    try:
        with remembered(eqn):
            outs, pull = jax.vjp(floats, [values[n] for n in operands])
            (gradients,) = pull([draw(out.shape).astype(out.dtype) for out in outs])
    except Exception:
        if pull is not None:
            return set()  # the rule itself raises, which is the same for each of them
        # One that cannot be differentiated must not hide the others.
        alone = [_with_gradient(eqn, f, values, [n]) for n in operands if len(operands) > 1]
        return set().union(*alone)
    return {n for n, g in zip(operands, gradients, strict=True) if np.any(np.asarray(g))}
