"""Cases of public libraries: a file per library, which imports it and names its cases.

    check("relu", jax.nn.relu, normal(3, 4))        a function with backward rules, and arguments

    @audit
    def classifier():                               a whole program, as its users write it
        return loss, params, x, labels

A case whose rule is wrong carries a `Bug`: why, and numbers that show it without fbp.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.interpreters.xla
import numpy as np

# TensorFlow Probability up to 0.25 reads this table, which newer releases of jax do not have.
if not hasattr(jax.interpreters.xla, "pytype_aval_mappings"):
    jax.interpreters.xla.pytype_aval_mappings = {np.ndarray: jax.typeof}


@dataclasses.dataclass(frozen=True)
class Bug:
    """A rule that is known to be wrong.

    Attributes:
      verdict: what fbp is to say of it.
      why: what is wrong, in a line.
      proof: returns what the rule gives, and what is right by other means than autodiff.
    """

    verdict: str
    why: str
    proof: Callable[[], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A function and its arguments, to be checked or audited."""

    kind: str
    make: Callable[[], tuple[Any, ...]]
    bug: Bug | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


# Those of the library that is loaded, by name.
CASES: dict[str, Case] = {}


def check(
    name: str, f: Callable[..., Any], *args: Any, bug: Bug | None = None, **options: Any
) -> None:
    """Adds a check of f, with options of `fbp.check`."""
    CASES[name] = Case("check", lambda: (f, *args), bug, options)


def audit(make: Any = None, *, bug: Bug | None = None, **options: Any) -> Any:
    """Adds an audit of what `make` returns: a loss, its params and its batch."""
    if make is None:
        return lambda make: audit(make, bug=bug, **options)
    CASES[make.__name__] = Case("audit", make, bug, options)
    return make


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    half = normal(n, n, seed=seed)
    return half @ half.T + n * np.eye(n, dtype=np.float32)


def slopes(f: Callable[..., Any], x: float) -> tuple[float, float]:
    """The derivative of f at x by its rules, and by differences, in float64."""
    with jax.enable_x64(True):
        x = np.float64(x)
        return float(jax.grad(f)(x)), differences(f, x)


def through_jit(f: Callable[..., Any], x: Any) -> tuple[float, float]:
    """An element of the gradient of f through jax.jit, NaN if that raises, and without jax.jit."""
    want = float(jax.grad(f)(x)[0])
    try:
        return float(jax.grad(jax.jit(f))(x)[0]), want
    except TypeError:
        return math.nan, want


def differences(f: Callable[..., Any], x: float, step: float = 1e-3) -> float:
    """Richardson's extrapolation of central differences: its error is of the order of step^4."""

    def central(step: float) -> float:
        return (float(f(x + step)) - float(f(x - step))) / (2 * step)

    return (4 * central(step / 2) - central(step)) / 3
