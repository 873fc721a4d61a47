"""In how many pieces an optimizer can update each copy of a Stack."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from fbp._layer import Params
from fbp._platform import is_lone_cpu
from fbp.step._parts import OnePart, Parts
from fbp.verify.program._program import equations

_FEWEST_NUMBERS = 2**18

# What gives each number of an array from those in the same place of others.
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp"),
    *("integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log"),
    *("log1p", "tanh", "logistic", "erf", "sin", "cos", "tan", "atan", "atan2", "asinh", "sinh"),
    *("cosh", "eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "xor", "is_finite"),
    *("select_n", "ceil", "floor", "round", "convert_element_type", "copy"),
}
# What does the same as the programs that it holds.
_CALLS = {"closed_call", "cond", "custom_jvp_call", "custom_vjp_call", "jit", "pjit"}


def pieces_of(parts: Parts, k: int) -> int:
    """How many for part k, a Stack whose copies can be updated apart.

    Pieces are for optimizers that work element by element: of others it is 1, and of all where a
    copy's arrays have no axis to cut in common.
    """
    shapes = parts.shapes[k]
    pieces = _pieces(shapes)
    if pieces > 1 and parts.grows_by(k, 1) and _is_elementwise(OnePart(parts, k), shapes, pieces):
        return pieces
    return 1


def _pieces(stacked: Params) -> int:
    """As many as leave this many numbers or more in a piece of the largest array.

    Smaller ones would save no memory that counts. On an accelerator each is one more launch, and
    of several devices each may have its own part of what would be cut.
    """
    leaves = jax.tree.leaves(stacked)
    if not is_lone_cpu() or any(leaf.ndim < 2 for leaf in leaves):
        return 1
    rows = math.gcd(*(leaf.shape[1] for leaf in leaves))
    most = max((math.prod(leaf.shape[1:]) for leaf in leaves), default=0) // _FEWEST_NUMBERS
    return max(c for c in range(1, max(most, 1) + 1) if rows % c == 0)


def _is_elementwise(optimizer: OnePart, stacked: Params, pieces: int) -> bool:
    """Whether the optimizer does to each element of a copy what it does to it in a piece.

    Read from its programs for both: of arrays they do nothing but what works element by element,
    and both do the same by the same numbers.
    """

    def program(pieces: int) -> ClosedJaxpr:
        def part(a: Any) -> jax.ShapeDtypeStruct:
            rows = [size // pieces for size in a.shape[1:2]]
            return jax.ShapeDtypeStruct((1, *rows, *a.shape[2:]), a.dtype)

        params = jax.tree.map(part, stacked)
        state = jax.eval_shape(optimizer.init, params)
        return jax.make_jaxpr(optimizer.update)(params, state, params)

    copy = program(1)
    if not all(map(_goes_by_element, equations(copy.jaxpr))):
        return False
    try:
        piece = program(pieces)
    except Exception:  # whatever an optimizer cannot do with a piece
        return False
    return _read(copy) == _read(piece)


def _goes_by_element(eqn: JaxprEqn) -> bool:
    arrays: list[Any] = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    name = eqn.primitive.name
    if not any(getattr(a, "ndim", 1) for a in arrays):
        return True  # of scalars, whatever it is
    if name == "broadcast_in_dim":
        return arrays[0].ndim == 0
    return name in _ELEMENTWISE or name in _CALLS


def _read(program: ClosedJaxpr) -> tuple[str, list[Any]]:
    """All that a program does, but for the shapes of arrays; and its constants."""
    text = re.sub(r"\[[\d,]*\]|shape=\([\d, ]*\)|\s", "", str(program))
    return text, [np.asarray(const).tolist() for const in program.consts]
