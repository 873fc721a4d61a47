"""The form in which every rule is checked: a function of a list of named arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fbp.verify.program._dtypes import is_float
from fbp.verify.rule._domain import Domain


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
    """A function with custom rules, and its arguments.

    Attributes:
      name: its name in reports.
      f: from the arrays of all leaves, in order, to a list of arrays.
      leaves: the arrays in its arguments.
      identity: a key that is equal for subjects of the same function; None if there is no such key.
      original: the function as it was given.
      arguments: from the arrays of all leaves to the arguments that contain them.
      as_traced: whether f binds an equation of a program traced before, in the dtypes of the
        leaves: traced anew in float64, its rule would have constants of other digits than that.
      is_call: whether it is the call of a rule in the program of a loss.
      in_float64: whether it is used in float64: its caller enabled x64 and passed float64 arrays.
      is_whole: whether it is a whole program, whose rules each choose a slope at a kink: what the
        chain rule makes of these need not be what any move of the inputs gives.
      domain: what its inputs may be; None if nothing is declared.
      accuracy: the relative error that a rule which approximates may have.
    """

    name: str
    f: Callable[[Sequence[Any]], list[Any]]
    leaves: tuple[Leaf, ...]
    identity: Any
    original: Any
    arguments: Callable[[Sequence[Any]], tuple[Any, ...]] = tuple
    in_float64: bool = False
    as_traced: bool = False
    is_call: bool = False
    is_whole: bool = False
    domain: Domain | None = None
    accuracy: float = 0.0

    @property
    def differentiable(self) -> list[int]:
        return [i for i, leaf in enumerate(self.leaves) if leaf.differentiable]

    @property
    def values(self) -> list[Any]:
        return [leaf.value for leaf in self.leaves]

    def inside(self, values: Sequence[Any], center: Sequence[Any]) -> list[Any] | None:
        """The values moved into the domain, which holds `center`; None if that cannot be done."""
        return list(values) if self.domain is None else self.domain.inside(values, center)

    def filled(self, values: Sequence[Any], floats: Sequence[Any]) -> list[Any]:
        """The values, with those of the differentiable leaves replaced by `floats`."""
        filled = list(values)
        for i, v in zip(self.differentiable, floats, strict=True):
            filled[i] = v
        return filled

    def of_floats(self, f: Callable[..., Any], values: Sequence[Any]) -> Callable[..., Any]:
        """f as a function from the differentiable leaves alone to its float outputs."""
        return lambda floats: list(filter(is_float, f(self.filled(values, floats))))

    def pull(self, f: Callable[..., Any], values: Sequence[Any], dys: Sequence[Any]) -> Any:
        """Float outputs and gradients of f by `jax.vjp`, with the custom rules in f in force."""
        outs, vjp = jax.vjp(self.of_floats(f, values), [values[i] for i in self.differentiable])
        (grads,) = vjp([jnp.asarray(d, y.dtype) for d, y in zip(dys, outs, strict=True)])
        return outs, grads


def describe(a: Any) -> str:
    """The dtype and shape of an array, as in `float32[7,5]`."""
    return f"{a.dtype}[{','.join(map(str, a.shape))}]"
