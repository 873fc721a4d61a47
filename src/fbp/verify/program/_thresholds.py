"""The constants that a program compares with: floats, where it may have kinks, and integers."""

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fbp.verify.program._dtypes import is_complex, is_float
from fbp.verify.program._margins import COMPARED
from fbp.verify.program._program import dtype_of, equations


def thresholds(program: ClosedJaxpr) -> list[float]:
    """The float constants that a program compares with: it may have kinks there."""
    found: set[float] = set()
    for eqn in equations(program.jaxpr):
        if eqn.primitive.name not in (*COMPARED, "select_n", "pow", "integer_pow"):
            continue
        for atom in eqn.invars:
            if isinstance(atom, Literal) and jnp.issubdtype(dtype_of(atom), jnp.floating):
                value = np.asarray(atom.val, np.float64)
                if value.ndim == 0 and np.isfinite(value) and abs(value) < 1e4:
                    found.add(float(value))
    for const in getattr(program, "consts", ()):
        is_number = getattr(const, "ndim", 1) == 0 and is_float(const) and not is_complex(const)
        if is_number and abs(float(const)) < 1e4:
            found.add(float(const))
    return sorted(found)[:8]


def special_integers(program: ClosedJaxpr) -> list[int]:
    """The integers that a program compares with: a padding id, a label to ignore."""
    found: dict[int, None] = {}
    for eqn in equations(program.jaxpr):
        name = eqn.primitive.name
        for atom in eqn.invars if name in ("eq", "ne", "lt", "le", "gt", "ge") else ():
            if not isinstance(atom, Literal) or not jnp.issubdtype(dtype_of(atom), jnp.integer):
                continue
            if np.ndim(atom.val) == 0:
                n = int(atom.val)
                # Negative ones only from == and !=: `i < 0` is how jax wraps an index.
                here = [n] if name in ("eq", "ne") else [m for m in (n, n + 1) if m >= 0]
                found.update(dict.fromkeys(here))
    return list(found)[:6]
