"""A rule that is right, and the draws of its arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[np.random.Generator, str], Any]
DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Rule:
    """A function with a custom rule that is right: a checker must stay quiet on it.

    `make()` builds the function; `args(rng, size)`, size "tiny" or "real", draws its arguments with
    float leaves in float32. `reference` is a function of the same value without the rule, for
    a primal that cannot be differentiated, or not to what the rule means. `dtypes` are those that
    the function takes, `needs` the modules besides jax.
    """

    name: str
    make: Callable[[], Callable]
    args: Callable[[np.random.Generator, str], tuple]
    reference: Callable | None = None
    dtypes: tuple[str, ...] = DTYPES
    needs: tuple[str, ...] = ()
    notes: str = ""
    origin: str = "hand"


def family(rules: list[Rule], origin: str, needs: tuple[str, ...] = ()) -> Callable:
    """The decorator that adds a `make` to the rules of one file."""

    def rule(name: str, *leaves: Draw, **options: Any) -> Callable:
        def add(make: Callable[[], Callable]) -> Callable[[], Callable]:
            given = {"origin": origin, "needs": needs, **options}
            rules.append(Rule(name, make, draw(*leaves), **given))
            return make

        return add

    return rule


def ruled(primal: Callable, fwd: Callable, bwd: Callable, **options: Any) -> Callable:
    f = jax.custom_vjp(primal, **options.pop("custom_vjp", {}))
    f.defvjp(fwd, bwd, **options)
    return f


def wide(x: jax.Array) -> jax.Array:
    """In at least float32, where sums and exponentials belong."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Axis(NamedTuple):
    """The length of an axis at each size."""

    tiny: int
    real: int


# Batch, time, width, heads, head width, classes or vocabulary, hidden width: no two are equal.
B, T, D, H, K = Axis(3, 16), Axis(6, 48), Axis(7, 131), Axis(2, 3), Axis(4, 32)
V, F = Axis(11, 257), Axis(5, 67)


def draw(*leaves: Draw) -> Callable[[np.random.Generator, str], tuple]:
    return lambda rng, size: tuple(leaf(rng, size) for leaf in leaves)


def shape_at(size: str, axes: tuple[Axis | int, ...]) -> tuple[int, ...]:
    return tuple(a if isinstance(a, int) else getattr(a, size) for a in axes)


def normal(*axes: Axis | int, scale: float = 1.0, shift: float = 0.0) -> Draw:
    def leaf(rng: np.random.Generator, size: str) -> np.ndarray:
        return (shift + scale * rng.normal(size=shape_at(size, axes))).astype(np.float32)

    return leaf


def uniform(low: float, high: float, *axes: Axis | int) -> Draw:
    return lambda rng, size: rng.uniform(low, high, shape_at(size, axes)).astype(np.float32)


def integers(low: int, high: Axis | int, *axes: Axis | int) -> Draw:
    def leaf(rng: np.random.Generator, size: str) -> np.ndarray:
        (end,) = shape_at(size, (high,))
        return rng.integers(low, end, shape_at(size, axes)).astype(np.int32)

    return leaf


def weights(*axes: Axis | int) -> Draw:
    """Normal, of a size that keeps the variance of x through x @ w."""

    def leaf(rng: np.random.Generator, size: str) -> np.ndarray:
        shape = shape_at(size, axes)
        return (rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32)

    return leaf


def touching(values: tuple[float, ...], *axes: Axis | int, scale: float = 1.0) -> Draw:
    """Normal, a third of the elements put exactly on the given values."""

    def leaf(rng: np.random.Generator, size: str) -> np.ndarray:
        x = scale * rng.normal(size=shape_at(size, axes))
        on = rng.random(x.shape) < 1 / 3
        return np.where(on, rng.choice(values, x.shape), x).astype(np.float32)

    return leaf


def tied(*axes: Axis | int) -> Draw:
    """Normal, rounded to halves: maxima are met more than once."""
    return lambda rng, size: np.round(2 * normal(*axes)(rng, size)) / np.float32(2)


def key() -> Draw:
    """A raw random key: two unsigned integers."""
    return lambda rng, size: rng.integers(0, 2**32, 2, dtype=np.uint32)


def nothing() -> Draw:
    return lambda rng, size: None


def tree(build: Callable[..., Any], *leaves: Draw) -> Draw:
    """One argument of several leaves."""
    return lambda rng, size: build(*draw(*leaves)(rng, size))
