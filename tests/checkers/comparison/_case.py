"""The rules that checkers are tried on."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import alternatives
import numpy as np
import planted


@dataclass(frozen=True)
class Case:
    """One rule: wrong if it has a bug, right otherwise."""

    name: str
    make: Callable[[], Callable]
    args: Callable[[np.random.Generator, str], tuple]
    bug: Any = None
    reference: Callable | None = None
    dtypes: tuple[str, ...] = ("float32",)

    @property
    def family(self) -> str:
        return self.name.split("/")[0]


def cases(told: bool = False) -> tuple[list[Case], list[str]]:
    """All rules that can be run here, and a line for each that cannot."""
    found, notes = [], []
    for bug in planted.BUGS:
        args, make = bug.args, bug.make
        if told and bug.at:
            args = bug.at
        if told and bug.within:
            make = functools.partial(lambda bug: bug.within(bug.make()), bug)
        found.append(Case(bug.name, make, args, bug))
    dtypes = ("float32", "float64", "bfloat16")
    for rule in planted.CORRECT:
        found.append(Case(f"{rule.name}/right", rule.make, rule.args, dtypes=dtypes))
    for rule in alternatives.RULES:
        if missing := [name for name in rule.needs if not installed(name)]:
            notes.append(f"skipped: {rule.name}, {', '.join(missing)} is not installed")
            continue
        found.append(
            Case(rule.name, rule.make, rule.args, None, rule.reference, tuple(rule.dtypes))
        )
    return found, notes


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or is None in sys.modules
        return False
