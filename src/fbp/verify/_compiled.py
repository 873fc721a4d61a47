"""Programs compiled to be run a few dozen times."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify._program import dtype_of, equations

# Compiling faster is worth more than running faster, as often as a check runs a program.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def quick(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """f, compiled for arguments of these shapes, in most cases with little optimisation."""
    traced = jax.jit(f).trace(*args)
    lowered = traced.lower()
    if _convolves_in_float64(traced.jaxpr):
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=_QUICK)
    except Exception:  # a backend that knows other options
        return lowered.compile()


def _convolves_in_float64(program: ClosedJaxpr) -> bool:
    """Whether there are many products in it: XLA has only its own loops for them, no library."""
    for eqn in equations(program.jaxpr):
        if eqn.primitive.name == "conv_general_dilated" and dtype_of(eqn.invars[0]) == np.float64:
            kernel, out = (getattr(v.aval, "shape", ()) for v in (eqn.invars[1], eqn.outvars[0]))
            features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            if math.prod(out) * math.prod(kernel) / max(1, features) > 1e5:
                return True
    return False
