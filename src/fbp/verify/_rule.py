"""Whether a rule is one at all: it can be traced, is the same each time, and keeps nothing back."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify._dtypes import is_float, narrow
from fbp.verify._program import trace
from fbp.verify._subject import Subject

# What jax raises where a rule kept something of one trace for another.
_LEAKS = ("UnexpectedTracerError", "No constant handler for type", "Computation compiled for")
_KEEPS = "the rule has a side effect: it keeps values of one call for another, which jit forbids"


class RuleError(Exception):
    """A rule is not one; the message is one line that says why."""


def leak(error: BaseException) -> str:
    """What to say of an error that comes of a side effect; "" of any other."""
    text = f"{type(error).__name__}: {error}"
    return _KEEPS if any(sign in text for sign in _LEAKS) else ""


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return said if len(said) <= 300 else said[:300] + "…"


def require_rule(subject: Subject, values: list[Any], dys: list[Any]) -> None:
    """Raises RuleError, which says at what stage, unless the rule gives what gradients are."""
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
    """The program of the outputs and the gradients by the rule."""
    # A new object: what jax remembers of an earlier trace could hide what has changed since.
    return trace(functools.partial(subject.pull, subject.f), values, dys)


def fingerprint(subject: Subject) -> Any:
    """What tells one rule from another: its program. None where it has none."""
    values = [narrow(leaf.value) for leaf in subject.leaves]
    try:
        outs = jax.eval_shape(subject.f, values)
        dys = [jnp.zeros(y.shape, y.dtype) for y in outs if is_float(y)]
        return fingerprint_of(traced_rule(subject, values, dys))
    except Exception:
        return None


def fingerprint_of(program: ClosedJaxpr) -> tuple[str, tuple[bytes, ...]]:
    """A program as text, less addresses, and the floats it holds.

    Raises:
      RuleError: it holds a value of another trace.
    """
    consts = []
    for const in program.consts:
        if isinstance(const, jax.core.Tracer):
            raise RuleError(_KEEPS)
        if isinstance(const, jax.Array | np.ndarray) and is_float(const):
            consts.append(np.asarray(const).tobytes())
    return re.sub(r"0x[0-9a-f]+", "", str(program)), tuple(consts)
