"""Jaxprs as data: reads what is in them, and removes their custom rules."""

import itertools
import linecache
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import closed_call_p

from fbp._layer import Array

RULES = ("custom_vjp_call", "custom_jvp_call")


def trace(f: Callable[..., Any], *args: Any) -> ClosedJaxpr:
    """The program of f on arguments of these shapes."""
    return jax.make_jaxpr(f)(*args)


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or literal; None if it is not an array."""
    return getattr(atom.aval, "dtype", None)


def programs_in(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs an equation holds: loop bodies, branches, functions called, kernels."""
    for value in eqn.params.values():
        for held in value if isinstance(value, tuple | list) else (value,):
            if isinstance(held, ClosedJaxpr):
                yield held.jaxpr
            elif isinstance(held, Jaxpr):
                yield held


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Every equation of a program and of the programs inside it."""
    for eqn in program.eqns:
        yield eqn
        for inner in programs_in(eqn):
            yield from equations(inner)


def constants_in(program: Any) -> Iterator[Any]:
    """Every constant of a program and of the programs inside it."""
    yield from getattr(program, "consts", ())
    for eqn in opened(program)[0].eqns:
        for value in eqn.params.values():
            for held in value if isinstance(value, tuple | list) else (value,):
                if isinstance(held, ClosedJaxpr | Jaxpr):
                    yield from constants_in(held)


def without_rules(program: ClosedJaxpr, keep: Sequence[int] = ()) -> ClosedJaxpr:
    """The same program without its custom rules, however deep; jax's own derivatives remain.

    Each `custom_vjp_call` and `custom_jvp_call` becomes a plain call of its primal program, and
    each `lax.platform_dependent` a call of its default branch.

    Args:
      program: the program.
      keep: numbers of the rules that stay. Rules are counted in the order of the program, without
        those inside other rules.
    """
    if not any(eqn.primitive.name in RULES for eqn in equations(program.jaxpr)):
        return program
    return _without(program, set(keep), itertools.count())


def _without(program: Any, keep: set[int], numbers: Iterator[int]) -> Any:
    if getattr(program, "jaxpr", program) is not program:
        return program.replace(jaxpr=_without(program.jaxpr, keep, numbers))
    eqns = []
    for eqn in program.eqns:
        if eqn.primitive.name in RULES:
            if next(numbers) not in keep:
                inside = _nameless(_without(eqn.params["call_jaxpr"], set(), itertools.count()))
                eqn = eqn.replace(primitive=closed_call_p, params={"call_jaxpr": inside})
        elif (eqn.params.get("branches_platforms") or [""])[-1] is None:
            # platform_dependent: kernels on some platforms, and the default branch they stand for.
            plain = _without(eqn.params["branches"][-1], keep, numbers)
            params = {"call_jaxpr": plain}
            eqn = eqn.replace(primitive=closed_call_p, params=params, invars=eqn.invars[1:])
        elif any(True for _ in programs_in(eqn)):
            params = {n: _without_inside(value, keep, numbers) for n, value in eqn.params.items()}
            eqn = eqn.replace(params=params)
        eqns.append(eqn)
    return program.replace(eqns=eqns)


def _nameless(program: Any) -> Any:
    """The program without names for its inputs: those of a rule called with keywords are as many as
    its function has parameters, not as many as it has inputs, which jax does not expect."""
    jaxpr, _ = opened(program)
    nameless = jaxpr.replace(debug_info=jaxpr.debug_info._replace(arg_names=None))
    return nameless if jaxpr is program else program.replace(jaxpr=nameless)


def _without_inside(value: Any, keep: set[int], numbers: Iterator[int]) -> Any:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return _without(value, keep, numbers)
    if isinstance(value, tuple | list) and any(isinstance(v, ClosedJaxpr | Jaxpr) for v in value):
        inside = [_without_inside(v, keep, numbers) for v in value]
        named = hasattr(value, "_fields")  # a NamedTuple, as custom_linear_solve has
        return type(value)(*inside) if named else type(value)(inside)
    return value


def rule_calls(program: Any) -> Iterator[JaxprEqn]:
    """The calls of custom rules, in the order of `keep` in `without_rules`."""
    for eqn in opened(program)[0].eqns:
        if eqn.primitive.name in RULES:
            yield eqn
        elif (eqn.params.get("branches_platforms") or [""])[-1] is None:
            yield from rule_calls(eqn.params["branches"][-1])
        else:
            for held in programs_in(eqn):
                yield from rule_calls(held)


def part_of(program: ClosedJaxpr, outputs: Sequence[int]) -> ClosedJaxpr:
    """The part of a program that some of its outputs depend on, with the same inputs."""
    jaxpr = program.jaxpr
    outvars = [jaxpr.outvars[i] for i in outputs]
    needed = {v for v in outvars if not isinstance(v, Literal)}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            eqns.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    held = [(v, c) for v, c in zip(jaxpr.constvars, program.consts, strict=True) if v in needed]
    jaxpr = jaxpr.replace(constvars=[v for v, _ in held], eqns=eqns[::-1], outvars=outvars)
    return program.replace(jaxpr=jaxpr, consts=[c for _, c in held])


def opened(program: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A program and its constants."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def scan_splits(params: dict[str, Any]) -> tuple[int, int]:
    """The indices at which the constants and the carry end among a scan's inputs."""
    if "num_consts" in params:
        n, carry = params["num_consts"], params["num_carry"]
    else:  # from jax 0.12 on
        n, carry = (len(part) for part in params["ft_in"].unpack()[:2])
    return n, n + carry


def evaluate(program: ClosedJaxpr, *args: Array) -> list[Array]:
    """The outputs of a program; differentiable, with its custom rules in force."""
    return jax.core.eval_jaxpr(program.jaxpr, program.consts, *args)


def as_function(program: ClosedJaxpr) -> Callable[[Sequence[Any]], list[Array]]:
    """A program as a function of the list of its inputs."""
    return lambda values: evaluate(program, *values)


_INSTALLED = os.path.normpath(sysconfig.get_paths()["purelib"])
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def source_of(eqn: JaxprEqn) -> tuple[str, int] | None:
    """File and line of an equation: the innermost frame outside of jax and of this folder."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return None
    frames = [(f.file_name, f.line_num) for f in traceback.frames if f.file_name[:1] != "<"]
    for file, line in frames:
        if not file.startswith((os.path.join(_INSTALLED, "jax"), _OURS)):
            return file, line
    return None


def quoted(source: tuple[str, int] | None) -> str:
    """A file and line as text, with what stands there; "" if they are not known."""
    if source is None:
        return ""
    file, line = source
    text = linecache.getline(file, line).strip()
    return f" at {os.path.basename(file)}:{line}" + (f" `{text[:80]}`" if text else "")
