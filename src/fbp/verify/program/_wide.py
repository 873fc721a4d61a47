"""Evaluates a program in float64, whatever dtypes it was traced in.

A rule that calls `.astype(jnp.float32)` inside does not run in float64 even on float64 inputs. But
its program can be evaluated with every float widened: without rounding to float32, only errors of
the algebra are left. Random bits and bit patterns stay as in the dtype the program was traced in.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from fbp.verify.program._dtypes import is_float
from fbp.verify.program._interpreter import Interpreter, bind
from fbp.verify.program._program import (
    dtype_of,
    equations,
    evaluate,
    opened,
    programs_in,
    trace,
)

_DTYPE_PARAMS = ("new_dtype", "preferred_element_type", "dtype")
# Primitives that depend on bits or on the spacing of floats stay in the dtype they were traced in.
_OF_BITS = ("bitcast_convert_type", "nextafter", "random_gamma_grad", "erf_inv")

_SCATTERS = {
    "scatter": lax.scatter,
    "scatter-add": lax.scatter_add,
    "scatter-mul": lax.scatter_mul,
    "scatter-min": lax.scatter_min,
    "scatter-max": lax.scatter_max,
}


def widest(dtype: Any) -> Any:
    """float64 for a float, complex128 for a complex number, anything else unchanged."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(jnp.complex128)
    return jnp.dtype(jnp.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def is_narrow(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact) and widest(dtype) != dtype


def narrow_dtypes(program: ClosedJaxpr) -> set[Any]:
    """Float dtypes other than float64 that a program computes in."""
    found = set()
    for eqn in equations(program.jaxpr):
        for var in (*eqn.invars, *eqn.outvars):
            dtype = getattr(var.aval, "dtype", None)
            if dtype is not None and is_narrow(dtype):
                found.add(jnp.dtype(dtype))
    return found


class Widened(Interpreter):
    """Evaluates a program with every float as float64.

    Attributes:
      stuck: the dtype of each primitive, by name, that had to run in the dtype it was traced in:
        kernels and foreign calls, which cannot be widened.
    """

    def __init__(self) -> None:
        self.stuck: dict[str, Any] = {}

    def literal(self, atom: Literal) -> Any:
        return _wide(atom.val) if is_narrow(dtype_of(atom)) else atom.val

    def constant(self, value: Any) -> Any:
        return _wide(value)

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        if eqn.primitive.name == "custom_jvp_call":
            return self._with_its_derivative(eqn, ins)
        return super().equation(eqn, ins)

    def _with_its_derivative(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        """Keeps the derivative of a custom_jvp function that a rule calls, widened like the call.

        It is used where the rule itself is differentiated: at a kink of the function, such as the
        abs(x) in a logaddexp, autodiff of its program would take another one.
        """
        floats = [i for i, v in enumerate(eqn.invars) if is_float(v.aval)]

        def filled(every: Sequence[Any], values: Sequence[Any]) -> list[Any]:
            full = list(every)
            for i, v in zip(floats, values, strict=True):
                full[i] = v
            return full

        @jax.custom_jvp
        def f(*values: Any) -> list[Any]:
            return self.run(*opened(eqn.params["call_jaxpr"]), filled(ins, values))

        @f.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            def along(every: list[Any], dots: list[Any]) -> Any:
                def of_floats(*values: Any) -> list[Any]:
                    return bind(eqn, filled(every, values))

                return jax.jvp(of_floats, tuple(every[i] for i in floats), tuple(dots))

            avals = [v.aval for v in eqn.invars]
            program = trace(along, avals, [avals[i] for i in floats])
            args = [*filled(ins, primals), *map(_wide, tangents)]
            outs = self.run(program.jaxpr, program.consts, args)
            return outs[: len(outs) // 2], outs[len(outs) // 2 :]

        return f(*(_wide(ins[i]) for i in floats))

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "reduce_precision":
            return ins
        if name in _SCATTERS:
            # Its parameters hold the jaxpr of the update, in the old dtype.
            keep = ("indices_are_sorted", "unique_indices", "mode")
            options = {k: eqn.params[k] for k in keep if k in eqn.params}
            operand, indices, updates = (_wide(value) for value in ins)
            dimensions = eqn.params["dimension_numbers"]
            return [_SCATTERS[name](operand, indices, updates, dimensions, **options)]
        floats = [dtype_of(v) for v in eqn.outvars if is_narrow(dtype_of(v) or "i4")]
        floats += [
            dtype_of(v)
            for held in programs_in(eqn)
            for inner in equations(held)
            for v in inner.outvars
            if is_narrow(dtype_of(v) or "i4")
        ]
        if any(True for _ in programs_in(eqn)) or name in _OF_BITS or "call" in name:
            narrow = [
                _as(value, dtype_of(atom)) if hasattr(value, "dtype") else value
                for value, atom in zip(ins, eqn.invars, strict=True)
            ]
            if floats:
                self.stuck[name] = min(floats, key=lambda d: jnp.finfo(d).bits)
            return [_wide(out) for out in bind(eqn, narrow)]
        params = dict(eqn.params)
        for param in _DTYPE_PARAMS:
            if params.get(param) is not None and is_narrow(params[param]):
                params[param] = widest(params[param])
        outs = bind(eqn.replace(params=params), [_wide(value) for value in ins])
        return [_wide(out) for out in outs]


def _wide(value: Any) -> Any:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = jnp.result_type(value)
    return _as(value, widest(dtype)) if is_narrow(dtype) else value


def _as(value: Any, dtype: Any) -> Any:
    # A number in a program has a dtype of its own, which `jnp.result_type` does not look at.
    own = getattr(value, "dtype", None)
    if (jnp.result_type(value) if own is None else own) == dtype:
        return value
    if not jnp.issubdtype(dtype, jnp.inexact):
        return value
    return jax.lax.convert_element_type(value, dtype)


def widened(program: ClosedJaxpr, stuck: dict[str, Any]) -> Any:
    """The function of a program, every float widened; `stuck` collects what could not be.

    A program with something that cannot be widened, as another library's primitive that holds
    dtypes of its own, is evaluated in the dtypes it was traced in.
    """

    def f(*args: Any) -> list[Any]:
        interpreter = Widened()
        try:
            outs = interpreter.run(program.jaxpr, program.consts, [_wide(a) for a in args])
        except Exception as error:
            narrow = [_as(a, x.dtype) for a, x in zip(args, program.in_avals, strict=True)]
            outs = evaluate(program, *narrow)
            stuck[f"all of it: {type(error).__name__}"] = min(
                narrow_dtypes(program), key=lambda d: jnp.finfo(d).bits
            )
        else:
            stuck.update(interpreter.stuck)
        return [_wide(out) for out in outs]

    return f
