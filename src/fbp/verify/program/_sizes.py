"""Whether programs traced at three sizes are one program in which a size is a variable.

If they are, what a rule does at one size tells what it does at the others. They are if they have
the same equations, of primitives that treat all elements alike, and every number in them is a
constant, or grows evenly with the size: n itself, n - 1, 3 n, 1 / n, 1 / sqrt(n).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fbp.verify.program._interpreter import CALLS
from fbp.verify.program._program import opened

_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "sign", "abs", "max", "min", "clamp", "square", "sqrt"),
    *("rsqrt", "cbrt", "pow", "integer_pow", "exp", "exp2", "expm1", "log", "log1p", "sin", "cos"),
    *("tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma", "eq", "ne", "lt", "le", "gt"),
    *("ge", "and", "or", "xor", "not", "select_n", "is_finite", "floor", "ceil", "round", "rem"),
    *("convert_element_type", "stop_gradient", "copy", "copy_p", "real", "imag", "conj", "complex"),
    *("mul_add", "add_any", "reduce_precision", "optimization_barrier", "nextafter"),
}
_MIXING = {
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
    *("argmax", "argmin", "dot_general", "transpose", "cumsum", "cumlogsumexp", "cummax", "cummin"),
}
# They move elements, wherever these are.
_MOVING = {"broadcast_in_dim", "squeeze", "expand_dims", "reshape", "iota"}
_KNOWN = _ELEMENTWISE | _MIXING | _MOVING | set(CALLS)
# Parameters that say nothing of what is computed.
_NAMES = ("name", "debug_info", "jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees", "sharding")


def are_like(programs: Sequence[ClosedJaxpr], sizes: Sequence[int]) -> bool:
    """Whether the shapes of the outputs follow the sizes: see `is_one_program`."""
    for outs in zip(*(program.out_avals for program in programs), strict=True):
        shapes = [out.shape for out in outs]
        if len({len(shape) for shape in shapes}) > 1:
            return False
        if not all(_follow(numbers, sizes) for numbers in zip(*shapes, strict=True)):
            return False
    return True


def is_one_program(
    programs: Sequence[ClosedJaxpr], sizes: Sequence[int], known: ClosedJaxpr
) -> bool:
    """Whether three programs are one: with all sizes one smaller, as they are, and one larger.

    Args:
      programs: the three.
      sizes: the sizes as they are.
      known: a program whose constants are right at all sizes.
    """
    walked = [list(_walk(program)) for program in programs]
    if len({len(items) for items in walked}) != 1:
        return False
    mixes = any(item in _MIXING for item in walked[1])
    constants = {item for item in _walk(known) if isinstance(item, float)}
    for items in zip(*walked, strict=True):
        if not all(isinstance(item, int | float) for item in items):
            if items[0] is None or any(item != items[0] for item in items):
                return False
        elif items[0] == items[1] == items[2]:
            # A number may be right at this size alone, as 1 / 7 for a mean of 7 numbers.
            is_new = mixes and isinstance(items[1], float) and items[1] not in constants
            if is_new and not _is_usual(abs(items[1]), sizes):
                return False
        elif not _follow(items, sizes):
            return False
    return True


def _is_usual(number: float, sizes: Sequence[int]) -> bool:
    """Whether a number is of the kind that derivatives bring in, and not made of a size."""
    made = [float(n) ** power for n in sizes for power in (1, -1, 0.5, -0.5)]
    return number in (0.0, 0.5, 1.0, 2.0) and number not in made


def _follow(numbers: Sequence[float], sizes: Sequence[int]) -> bool:
    """Whether three numbers follow the sizes: one is evenly far apart, or so is a power of them;
    or they are proportional to a product of sizes, or to a power of it."""
    a, b, c = map(float, numbers)
    if not all(map(math.isfinite, (a, b, c))):
        return False
    for power in (1, -1, 2, -2):
        if power != 1 and not min(a, b, c) > 0:
            continue
        low, middle, high = (x**power for x in (a, b, c))
        if abs(high - 2 * middle + low) <= 1e-5 * abs(high - low) or low == middle == high:
            return True
        for count in range(2, len(sizes) + 1):
            for some in itertools.combinations(sizes, count):
                wanted = [math.prod(n + step for n in some) for step in (-1, 0, 1)]
                ratios = [x / n for x, n in zip((low, middle, high), wanted, strict=True)]
                if max(ratios) - min(ratios) <= 1e-5 * abs(ratios[1]):
                    return True
    return False


def _walk(program: Any) -> Iterator[Any]:
    """What a program is made of: names, which have to be equal, and numbers; None if unknown."""
    jaxpr, consts = opened(program)
    places: dict[Any, int] = {}
    var: Any
    yield len(jaxpr.invars), len(consts)
    for const in consts:
        yield from _array(const)
    for var in (*jaxpr.constvars, *jaxpr.invars):
        places[var] = len(places)
        yield from _shape(var.aval)
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        yield name if name in _KNOWN else None
        for var in eqn.invars:
            yield from _array(var.val) if isinstance(var, Literal) else (str(places[var]),)
        for key, value in sorted(eqn.params.items()):
            if key not in _NAMES:
                yield key
                yield from _parameter(value)
        for var in eqn.outvars:
            places[var] = len(places)
            yield from _shape(var.aval)
    for var in jaxpr.outvars:
        yield from _array(var.val) if isinstance(var, Literal) else (str(places[var]),)


def _shape(aval: Any) -> Iterator[Any]:
    yield str(getattr(aval, "dtype", None))
    yield str(len(getattr(aval, "shape", ())))
    yield from getattr(aval, "shape", ())


def _array(a: Any) -> Iterator[Any]:
    """A number; of an array, which may be a table of another size, nothing is known."""
    if not hasattr(a, "dtype"):
        yield a if isinstance(a, int | float) else str(a)
    elif np.ndim(a) or isinstance(a, jax.core.Tracer) or not jnp.issubdtype(a.dtype, np.generic):
        yield None
    elif not (jnp.issubdtype(a.dtype, jnp.number) or a.dtype == bool):
        yield str(a.dtype)  # the zero that stands for the gradient of an integer
    else:
        number = complex(a)
        is_finite = math.isfinite(abs(number))
        # As a float, unlike sizes and axes.
        yield from (str(a.dtype), number.real, number.imag) if is_finite else (str(number),)


def _parameter(value: Any) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        yield from _walk(value)
    elif isinstance(value, tuple | list):
        yield str(len(value))
        for item in value:
            yield from _parameter(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield from _array(value)
    else:
        yield (
            str(value) if isinstance(value, str | bool | np.dtype | None) else type(value).__name__
        )
