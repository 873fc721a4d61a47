"""Registers rules beside their code, for pytest and `fbp check` to find and check.

Nothing here imports jax, and registering a rule computes nothing.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fbp.verify.registry._named import CheckError

if TYPE_CHECKING:
    from fbp.verify._check import Budget
    from fbp.verify.report._card import Report


@dataclasses.dataclass(frozen=True)
class Rule:
    """A backward rule, and the arguments to check it with.

    Attributes:
      name: its name in reports and tests.
      module: the module that registered it.
      f: a function with custom rules, a `Layer`, a `Loss` or an `Objective`.
      args: its arguments, or a function that makes them.
      options: further options of `fbp.check`.
    """

    name: str
    module: str
    f: Any
    args: tuple[Any, ...] | Callable[[], Any]
    options: dict[str, Any]

    def check(self, **options: Any) -> "Report":
        """Checks the rule; the given options override its own."""
        from fbp.verify._check import check

        report = check(self.f, *self.arguments(), **{**self.options, **options})
        return dataclasses.replace(report, name=self.name)

    def arguments(self) -> tuple[Any, ...]:
        """Its arguments, made now if `args` is a function."""
        if isinstance(self.args, tuple):
            return self.args
        args = self.args()
        if not isinstance(args, tuple | list):
            got = type(args).__name__
            raise CheckError(f"make of {self.name}: expected a tuple of arguments, got {got}")
        return tuple(args)


# By module and name, in the order of registration, each with its module's spec. Reloading a module
# makes a new spec.
_RULES: dict[tuple[str, str], tuple[Rule, Any]] = {}


def register(
    f: Any = None,
    /,
    *args: Any,
    make: Callable[[], Any] | None = None,
    name: str | None = None,
    reference: Callable[..., Any] | None = None,
    argnums: Sequence[int] | None = None,
    domain: Callable[..., Any] | Mapping[Any, Callable[..., Any]] | None = None,
    sizes: Callable[[int], tuple[Any, ...]] | None = None,
    accuracy: float = 0.0,
    budget: "Budget" = "default",
) -> Any:
    """Registers a rule, which pytest (`fbp_rules`) and `fbp check` then find and check.

        fbp.register(rms_norm, x, gamma)                       # after the definition of the rule

        fbp.register(rms_norm, make=lambda: (x(), gamma()))    # makes arguments when it is checked

        @fbp.register(make=arguments)                          # as a decorator
        @jax.custom_vjp
        def rms_norm(x, gamma): ...

    Args:
      f: what `fbp.check` takes: a function with custom rules, a `Layer`, a `Loss`, an `Objective`.
        Without it the result is a decorator.
      *args: its arguments.
      make: a function that returns a tuple of them instead, called when the rule is checked.
      name: its name in reports; f's own name by default. A rule may be registered several times,
        with other arguments and another name.
      reference: as for `fbp.check`; so are `argnums`, `domain`, `accuracy` and `budget`.
      sizes: the same; without arguments, those of the largest size that is tried are made.

    Returns:
      f itself.

    Raises:
      TypeError: neither arguments nor `make` nor `sizes` are given, or arguments and `make`; f is
        none of these, or has no name of its own and none is given.
      ValueError: its module has already registered a rule of this name; or the name is not
        printable, or contains "::".
    """
    if sizes is not None and make is None and not args:
        make = functools.partial(_largest, sizes)
    if (make is None) == (not args):
        got = "neither" if make is None else "both"
        raise TypeError(f"register: expected either arguments or make=, got {got}")
    caller = sys._getframe(1).f_globals
    options = {
        "reference": reference,
        "argnums": argnums,
        "domain": domain,
        "sizes": sizes,
        "accuracy": accuracy,
        "budget": budget,
    }

    def add(f: Any) -> Any:
        given = args if make is None else make
        _add(Rule(_name(f, name), caller.get("__name__", ""), f, given, options), caller)
        return f

    if f is not None and not (
        callable(f) or hasattr(f, "backward") or hasattr(f, "value_and_grad")
    ):
        got = type(f).__name__
        raise TypeError(f"register: expected a function, a Layer or a Loss first, got {got}")
    return add if f is None else add(f)


def rules(module: str | None = None) -> list[Rule]:
    """The rules registered so far: all, or those of a module and of its submodules."""
    return [
        rule
        for (where, _), (rule, _) in _RULES.items()
        if module is None or f"{where}.".startswith(f"{module}.")
    ]


def _largest(sizes: Callable[[int], Any]) -> Any:
    from fbp.verify._other_sizes import SIZES

    return sizes(SIZES[-1])


def _add(rule: Rule, caller: dict[str, Any]) -> None:
    spec = caller.get("__spec__")
    # Reloading a module drops the rules of its earlier load. A notebook has no `__file__`: a cell
    # that is run again replaces its rule.
    for key, (_, other) in list(_RULES.items()):
        if key[0] == rule.module and other is not spec:
            del _RULES[key]
    if (rule.module, rule.name) in _RULES and "__file__" in caller:
        raise ValueError(
            f"register: {rule.module} has registered a rule {rule.name!r} already: "
            "give one of them another name="
        )
    _RULES[rule.module, rule.name] = rule, spec


def _name(f: Any, name: str | None) -> str:
    if name is None:
        own = getattr(f, "__name__", None) or getattr(getattr(f, "func", None), "__name__", None)
        name = str(own or type(f).__name__)
        if not name.isidentifier():
            raise TypeError(f"register: expected name= for {name}, which has no name of its own")
    if not name or not name.isprintable() or "::" in name:
        raise ValueError(f"register: expected a name of printable characters, got {name!r}")
    return name
