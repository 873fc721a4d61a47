"""The call of a custom rule in a program, as a subject that can be checked by itself."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._interpreter import bind
from fbp.verify.program._program import dtype_of
from fbp.verify.rule._rule import fingerprint
from fbp.verify.rule._subject import Leaf, Subject
from fbp.verify.sites._harvest import Reached
from fbp.verify.sites._sites import rule_source


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


def subject_of_call(one: Reached) -> Subject:
    """The call of a rule as a subject, with the inputs that reach it."""
    eqn = one.site.eqn
    inputs, _ = one.at(-1)

    def f(values: Sequence[Any]) -> list[Any]:
        dtypes = [dtype_of(v) for v in eqn.invars]
        fitting = [
            v if not is_float(v) or v.dtype == d else jax.lax.convert_element_type(v, d)
            for v, d in zip(values, dtypes, strict=True)
        ]
        outs = bind(eqn, fitting)
        return [outs[i] for i in used]

    used = _used_outputs(one)
    leaves = []
    for n, (name, v) in enumerate(zip(one.site.operands, inputs, strict=True)):
        is_operand = is_float(v) and n >= one.site.constants
        differentiable = is_operand and (one.moving[n] or _has_gradient(eqn, f, inputs, n))
        leaves.append(Leaf(name, v if is_key(v) else np.asarray(v), differentiable))
    return Subject(one.site.name, f, tuple(leaves), None, f, as_traced=True)


def _has_gradient(eqn: Any, f: Callable[..., Any], values: Sequence[Any], n: int) -> bool:
    """Whether a rule gives an operand a gradient: it returns one that is not zero everywhere."""
    if eqn.params.get("symbolic_zeros"):
        # It is told what is differentiated, and may refuse. JAX cannot call it again after that.
        return False

    def floats(v: Any) -> list[Any]:
        return [out for out in f([*values[:n], v, *values[n + 1 :]]) if is_float(out)]

    draw = np.random.default_rng(0).standard_normal
    try:
        outs, pull = jax.vjp(floats, values[n])
        (gradient,) = pull([draw(out.shape).astype(out.dtype) for out in outs])
    except Exception:
        return False
    return bool(np.any(np.asarray(gradient)))
