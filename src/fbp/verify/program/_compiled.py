"""Programs compiled to be run a few dozen times."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from fbp.verify.program._program import dtype_of, equations

# Compiling faster is worth more than running faster, as often as a check runs a program.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def quick(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """f, compiled for arguments of these shapes, in most cases with little optimisation."""
    traced = jax.jit(f).trace(*args)
    lowered = traced.lower()
    if any(map(_takes_long, equations(traced.jaxpr.jaxpr))):
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=_QUICK)
    except Exception:  # a backend that knows other options
        return lowered.compile()


def _takes_long(eqn: JaxprEqn) -> bool:
    """Whether it runs so long that little optimisation costs more than compiling it does."""
    if eqn.primitive.name == "while":
        # Nobody knows how often it turns.
        return sum(getattr(v.aval, "size", 1) for v in eqn.invars) > 1000
    if eqn.primitive.name == "conv_general_dilated" and dtype_of(eqn.invars[0]) == np.float64:
        # XLA has only its own loops for these products, no library.
        kernel, out = (getattr(v.aval, "shape", ()) for v in (eqn.invars[1], eqn.outvars[0]))
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(out) * math.prod(kernel) / max(1, features) > 1e5
    return False
