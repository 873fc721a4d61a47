"""The program of a function without its rules, which the reference differentiates."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from fbp.verify.program._dtypes import is_float
from fbp.verify.program._program import trace, without_rules
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._subject import Subject, describe


def float_outputs(subject: Subject, values: list[Any]) -> list[Any]:
    """Shapes and dtypes of the float outputs.

    Raises:
      ValueError: the function raises on these values, or returns no floats.
    """
    try:
        outs = jax.eval_shape(subject.f, values)
    except Exception as error:
        text = f"{subject.name} raises on these arguments: {first_line(error)}"
        raise ValueError(text) from error
    floats = list(filter(is_float, outs))
    if not floats:
        got = ", ".join(map(describe, outs)) or "nothing"
        raise ValueError(f"{subject.name}: expected an output with floats, got {got}")
    return floats


def plain_program(
    subject: Subject,
    program: ClosedJaxpr,
    reference: Callable[..., Any] | None,
    values: list[Any],
) -> ClosedJaxpr:
    """The program of the function, or of the reference given in its place, without rules.

    Raises:
      ValueError: the reference raises, or returns outputs of other shapes.
    """
    if reference is None:
        return without_rules(program)
    try:
        other = trace(reference, values)
    except Exception as error:
        text = f"reference of {subject.name} raises on these arguments: {first_line(error)}"
        raise ValueError(text) from error
    if [a.shape for a in other.out_avals] != [a.shape for a in program.out_avals]:
        got, wanted = (", ".join(map(describe, p.out_avals)) for p in (other, program))
        raise ValueError(f"reference of {subject.name}: expected outputs {wanted}, got {got}")
    return without_rules(other)
