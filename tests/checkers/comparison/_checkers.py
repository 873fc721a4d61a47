"""The checkers, by name."""

import functools
from dataclasses import dataclass

from comparison._by_fbp import by_fbp
from comparison._by_jax import by_check_grads, by_chex
from comparison._by_torch import by_gradcheck
from comparison._said import Check

FBP, FBP_FAST = "fbp", "fbp, fast"


@dataclass(frozen=True)
class Checker:
    """One way to check a gradient; `wide` where it works in float64."""

    check: Check
    needs: str
    wide: bool = False
    all_dtypes: bool = False


CHECKERS = {
    FBP: Checker(functools.partial(by_fbp, "default"), "fbp", all_dtypes=True),
    FBP_FAST: Checker(functools.partial(by_fbp, "fast"), "fbp", all_dtypes=True),
    "check_grads": Checker(functools.partial(by_check_grads, False), "jax"),
    "check_grads f64": Checker(functools.partial(by_check_grads, True), "jax", wide=True),
    "chex": Checker(by_chex, "chex"),
    "gradcheck": Checker(functools.partial(by_gradcheck, False), "torch", wide=True),
    "gradcheck, fast": Checker(functools.partial(by_gradcheck, True), "torch", wide=True),
}
