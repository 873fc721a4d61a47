"""Compiles programs that run only a few dozen times."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from fbp.verify.program._program import dtype_of, equations

# A check runs a program so few times that compiling fast matters more than running fast.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# Of these, what every XLA knows.
_COMMON: dict[str, Any] = {"xla_backend_optimization_level": 0}
# Makes x * mask a choice between x and 0: 0 where, without jit, inf * 0 is NaN.
_SIMPLIFIER = {"xla_disable_hlo_passes": "algsimp"}


def as_without_jit(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """f compiled without algebraic simplification: it is NaN where f is NaN without jit."""
    return _compiled(jax.jit(f).trace(*args).lower(), _SIMPLIFIER)


def quick(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """f compiled for arguments of these shapes, with little optimisation unless it runs long."""
    traced = jax.jit(f).trace(*args)
    lowered = traced.lower()
    if any(map(_takes_long, equations(traced.jaxpr.jaxpr))):
        return lowered.compile()
    return _compiled(lowered, {})


def _compiled(lowered: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """A program compiled fast, with these options as far as the backend has them."""
    for quick_ones in (_QUICK, _COMMON):
        try:
            return lowered.compile(compiler_options=quick_ones | options)
        except Exception:  # a backend without one of these options
            continue
    return lowered.compile()


def _takes_long(eqn: JaxprEqn) -> bool:
    """Whether an equation runs so long that the program is worth full optimisation."""
    if eqn.primitive.name == "while":
        # The number of iterations is unknown.
        return sum(getattr(v.aval, "size", 1) for v in eqn.invars) > 1000
    if eqn.primitive.name == "conv_general_dilated" and dtype_of(eqn.invars[0]) == np.float64:
        # XLA generates loops for float64 convolutions: no library has them.
        kernel, out = (getattr(v.aval, "shape", ()) for v in (eqn.invars[1], eqn.outvars[0]))
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(out) * math.prod(kernel) / max(1, features) > 1e5
    return False
