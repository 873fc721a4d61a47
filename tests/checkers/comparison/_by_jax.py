"""The checkers that take differences of a JAX function: `check_grads`, and that of chex."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from comparison._case import Case
from comparison._floats import as_dtype, of_floats
from comparison._said import Said, complaint

MISMATCH = r"Not equal to tolerance|Mismatched elements|not close|x and y"


def by_check_grads(wide: bool, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    from jax.test_util import check_grads

    options: dict[str, Any] = {}
    if wide:
        options = {"atol": 1e-6, "rtol": 1e-6, "eps": float(np.cbrt(np.finfo(np.float64).eps))}
        args = as_dtype(args, "float64")
    g, floats = of_floats(f, args)
    check = functools.partial(check_grads, g, floats, order=1, modes=("rev",), **options)
    return complaint(check, AssertionError, MISMATCH)


def by_chex(case: Case, f: Callable, args: tuple, limit: float) -> Said:
    import chex

    g, floats = of_floats(f, args)
    check = functools.partial(chex.assert_numerical_grads, g, floats, order=1, modes=("rev",))
    return complaint(check, AssertionError, MISMATCH)
