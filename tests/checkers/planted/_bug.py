"""What a planted bug is, and what every family of them shares.

A family is a plain function (its primal, right by construction) and a builder of rules:
`rule(bug)` gives the primal a backward written by hand, right for `bug = ""` and wrong in one
visible branch for every name of a bug.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Args = Callable[[np.random.Generator, str], tuple]


class NeedsDevices(RuntimeError):
    """The rule runs on several devices, and there are fewer."""


@dataclasses.dataclass(frozen=True)
class Bug:
    """One wrong rule: how to build and feed it, and how a checker names it rightly."""

    name: str  # family/what is wrong
    make: Callable[[], Callable]  # builds the function with the wrong rule
    args: Args  # (rng, "tiny" or "real") -> arguments
    leaves: tuple[str, ...]  # the leaves whose gradient is wrong
    right: tuple[str, ...]  # hints that name the mistake: "kind" or "kind:regex of its text"
    says: str  # what is wrong, in one sentence
    verdicts: tuple[str, ...] = ("WRONG",)  # verdicts that count as having detected it
    primal: Callable | None = None  # the same function without any rule
    at: Args | None = None  # the special input outside which the rule is right
    within: Callable[[Callable], Callable] | None = None  # the use of f outside which it is right


@dataclasses.dataclass(frozen=True)
class Correct:
    """One right rule: what a checker says against it is a false alarm."""

    name: str
    make: Callable[[], Callable]
    args: Args
    primal: Callable


@dataclasses.dataclass(frozen=True)
class Family:
    """A primal, the builder of its rules, and its ordinary arguments."""

    name: str
    primal: Callable
    rule: Callable[[str], Callable]
    args: Args

    def bug(
        self,
        name: str,
        leaves: str,
        right: tuple[str, ...],
        says: str,
        *verdicts: str,
        args: Args | None = None,
        at: Args | None = None,
        within: Callable[[Callable], Callable] | None = None,
    ) -> Bug:
        """The bug that `rule(name)` plants; `leaves` are words in one string."""
        return Bug(
            name=f"{self.name}/{name}",
            make=functools.partial(self.rule, name),
            args=args or self.args,
            leaves=tuple(leaves.split()),
            right=right,
            says=says,
            verdicts=verdicts or ("WRONG",),
            primal=self.primal,
            at=at,
            within=within,
        )

    @property
    def correct(self) -> Correct:
        """The family's right rule."""
        return Correct(self.name, functools.partial(self.rule, ""), self.args, self.primal)


def rule(primal: Callable, backward: Callable) -> Callable:
    """`primal` with the rule `backward(*args, dy)`, one gradient (or None) an argument.

    The residuals are the arguments; each gradient takes the dtype of its argument.
    """
    f: Any = jax.custom_vjp(primal)

    def fwd(*args):
        return primal(*args), args

    def bwd(args, dy):
        args, dy = jax.tree.map(jnp.asarray, (args, dy))
        return tuple(map(like, backward(*args, dy), args))

    f.defvjp(fwd, bwd)
    return f


def like(d: Any, arg: Any) -> Any:
    """The gradient `d` in the dtype of its argument; None stays None."""
    if d is None:
        return None
    return jax.tree.map(lambda leaf, a: leaf.astype(a.dtype), d, arg)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Float32 normal numbers."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def sizes(size: str, tiny: tuple, real: tuple) -> tuple:
    """The sizes of this size."""
    return {"tiny": tiny, "real": real}[size]


def normals(tiny: tuple, real: tuple, scale: float = 1.0) -> Args:
    """Arguments that are normal arrays of these shapes."""

    def args(rng, size):
        return tuple(normal(rng, *shape, scale=scale) for shape in sizes(size, tiny, real))

    return args
