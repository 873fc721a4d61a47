"""Rows of the table of cases: layers whose x or y is a tree, and what goes with these."""

from collections.abc import Callable
from typing import Any

import numpy as np
from _case import Case

import fbp


def _normal(*shape: int) -> Callable[[np.random.Generator], Any]:
    """A mean and the logarithm of a variance."""
    return lambda rng: {"mean": rng.normal(size=shape), "log_var": rng.normal(size=shape)}


def make_cases() -> list[Case]:
    """Builds these rows; two calls build equal layers."""
    return [
        Case("sample", fbp.Sample(), _normal(7, 5), noisy=True),
        Case("sample/no_batch", fbp.Sample(), _normal(5), batch=0, noisy=True),
        Case("sample/scalar", fbp.Sample(), _normal(), batch=0, noisy=True),
        Case("sample/two_batch_axes", fbp.Sample(), _normal(3, 3, 3), batch=2, noisy=True),
        Case(
            "sample/recomputed",
            fbp.Serial(fbp.Sample(), fbp.Dense(3, 2)),
            _normal(7, 3),
            noisy=True,
        ),
    ]


CORE = {"sample"}
