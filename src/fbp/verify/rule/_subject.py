"""What is checked, in one form: a function of a list of arrays, with names for all of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fbp.verify.program._dtypes import is_float


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array among the arguments.

    Attributes:
      path: its name, as in `params.w`.
      value: the array.
      differentiable: whether its gradient is checked.
    """

    path: str
    value: Any
    differentiable: bool


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function with custom rules, and what it is given.

    Attributes:
      name: what reports call it.
      f: from the arrays of all leaves, in order, to a list of arrays.
      leaves: its arguments.
      identity: what makes two subjects the same function, or None where that cannot be known.
      original: the function as it was given.
      arguments: from the arrays of all leaves to the arguments they are of.
      in_float64: whether it is used in float64: it was given that, by a caller who enabled it.
    """

    name: str
    f: Callable[[Sequence[Any]], list[Any]]
    leaves: tuple[Leaf, ...]
    identity: Any
    original: Any
    arguments: Callable[[Sequence[Any]], tuple[Any, ...]] = tuple
    in_float64: bool = False

    @property
    def differentiable(self) -> list[int]:
        return [i for i, leaf in enumerate(self.leaves) if leaf.differentiable]

    @property
    def values(self) -> list[Any]:
        return [leaf.value for leaf in self.leaves]

    def filled(self, values: Sequence[Any], floats: Sequence[Any]) -> list[Any]:
        """The values with others in the places of the differentiable ones."""
        filled = list(values)
        for i, v in zip(self.differentiable, floats, strict=True):
            filled[i] = v
        return filled

    def of_floats(self, f: Callable[..., Any], values: Sequence[Any]) -> Callable[..., Any]:
        """f as a function of the differentiable leaves alone, to its outputs with floats."""
        return lambda floats: list(filter(is_float, f(self.filled(values, floats))))

    def pull(self, f: Callable[..., Any], values: Sequence[Any], dys: Sequence[Any]) -> Any:
        """Outputs and gradients of f, by jax and the rules in force in f."""
        outs, vjp = jax.vjp(self.of_floats(f, values), [values[i] for i in self.differentiable])
        (grads,) = vjp([jnp.asarray(d, y.dtype) for d, y in zip(dys, outs, strict=True)])
        return outs, grads


def describe(a: Any) -> str:
    """As in `float32[7,5]`."""
    return f"{a.dtype}[{','.join(map(str, a.shape))}]"
