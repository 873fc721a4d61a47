"""Checks that a function has a usable rule: it traces, is deterministic, and keeps no state."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.program._dtypes import is_float, is_key, narrow
from fbp.verify.program._interpreter import inlined
from fbp.verify.program._program import constants_in, part_of, trace
from fbp.verify.rule._subject import Subject

# What jax raises if a rule keeps a value of one trace and uses it in another.
_LEAKS = ("UnexpectedTracerError", "No constant handler for type", "Computation compiled for")
KEEPS = (
    "the rule has a side effect: it closes over a value of the call that it was made in, or keeps "
    "values of one call for another, which jit forbids"
)


class RuleError(Exception):
    """A rule that cannot be used; the message says why in one line.

    Attributes:
      leaves: indices of the differentiable leaves it affects, as far as they are known.
    """

    def __init__(self, text: str, leaves: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.leaves = leaves


def leak(error: BaseException) -> str:
    """The message for an error that a side effect causes; "" for any other error."""
    text = f"{type(error).__name__}: {error}"
    return KEEPS if any(sign in text for sign in _LEAKS) else ""


def first_line(error: BaseException) -> str:
    """The message of an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1]}"
    return said if len(said) <= 300 else said[:300] + "…"


def require_rule(subject: Subject, values: list[Any], dys: list[Any]) -> None:
    """Raises RuleError, which names the stage, if forward or backward raises when traced."""
    stage = "forward"

    def pull(values: list[Any], dys: list[Any]) -> Any:
        nonlocal stage
        floats = [values[i] for i in subject.differentiable]
        _, vjp = jax.vjp(subject.of_floats(subject.f, values), floats)
        stage = "backward"
        return vjp(dys)[0]

    try:
        jax.eval_shape(pull, values, dys)
    except Exception as error:
        form = ""
        if stage == "backward" and "must produce" in str(error):
            form = " (a gradient has the tree, shapes and dtypes of the arguments)"
        raise RuleError(
            f"the rule's {stage} raises {type(error).__name__}: {first_line(error)}{form}"
        ) from error


def traced_rule(subject: Subject, values: list[Any], dys: list[Any]) -> ClosedJaxpr:
    """The program of the outputs and of the gradients from the rule."""
    # A new function object, since jax's cached trace of an old one could hide a change.
    return trace(functools.partial(subject.pull, subject.f), values, dys)


def fingerprint(subject: Subject) -> Any:
    """A key for a function and its rule, made from their programs; None if tracing fails."""
    values = [narrow(leaf.value) for leaf in subject.leaves]
    try:
        outs = jax.eval_shape(subject.f, values)
        dys = [jnp.zeros(y.shape, y.dtype) for y in outs if is_float(y)]
        rule = traced_rule(subject, values, dys)
        require_own_values(rule, len(subject.differentiable))
        return fingerprint_of(trace(subject.f, values)), fingerprint_of(rule)
    except Exception:
        return None


def require_own_values(rule: ClosedJaxpr, leaves: int) -> None:
    """Raises RuleError if the program of a rule holds values of another trace.

    Args:
      rule: the program, its last outputs the gradients.
      leaves: how many gradients there are.
    """

    first = len(rule.out_avals) - leaves
    foreign = foreign_outputs(rule)
    if foreign is not None:
        raise RuleError(KEEPS, [i - first for i in foreign if i >= first])


def foreign_outputs(program: ClosedJaxpr) -> list[int] | None:
    """Indices of outputs that depend on values of another trace; None if there are none."""
    if not _is_foreign(program):
        return None
    flat = inlined(program)
    return [i for i in range(len(flat.out_avals)) if _is_foreign(part_of(flat, [i]))]


def _is_foreign(program: ClosedJaxpr) -> bool:
    return any(isinstance(const, jax.core.Tracer) for const in constants_in(program))


def changing_leaves(rule: ClosedJaxpr, again: ClosedJaxpr, leaves: int) -> list[int]:
    """Indices of the gradients whose programs differ between two traces of a rule."""
    first = len(rule.out_avals) - leaves
    programs = [[part_of(p, [first + k]) for p in (rule, again)] for k in range(leaves)]
    return [k for k, (a, b) in enumerate(programs) if fingerprint_of(a) != fingerprint_of(b)]


def fingerprint_of(program: ClosedJaxpr) -> tuple[str, tuple[bytes, ...]]:
    """A program as text without memory addresses, and the bytes of its constants."""
    consts = []
    for const in constants_in(program):
        if hasattr(const, "dtype"):
            array = jax.random.key_data(const) if is_key(const) else const
            consts.append(np.asarray(array).tobytes())
    return re.sub(r"0x[0-9a-f]+", "", str(program)), tuple(consts)
