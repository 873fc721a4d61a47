"""The places of a program that have a switch, and what every kind of switch shares."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from fbp._layer import Array
from fbp.verify.program._interpreter import Interpreter
from fbp.verify.program._program import source_of


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a program that has a switch.

    Attributes:
      kind: "operand", "derivative", "factor", "constant", "comparison", "choice" or "loop".
      what: the primitive, with the value of the constant or the primitive that made the operand.
      settings: the values of the switch, each with the text that describes it; 0 is off.
      source: file and line, if known.
      operand: the number of the operand's variable, the same for all its uses; 0 for others.
    """

    kind: str
    what: str
    settings: tuple[tuple[float, str], ...]
    source: tuple[str, int] | None
    operand: int = 0


class Switchboard(Interpreter):
    """Evaluates a program and lists the switches in it; with None, they are all off."""

    def __init__(self, switches: Array | None = None) -> None:
        self.switches = switches
        self.places: list[Place] = []
        self.outer: tuple[str, int] | None = None
        self.made_by: dict[Any, str] = {}
        self.numbers: dict[Any, int] = {}
        self.in_loop = False

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        before = self.outer
        self.outer = source_of(eqn) or before
        outs = super().equation(eqn, ins)
        self.outer = before
        for var in eqn.outvars:
            self.made_by[var] = eqn.primitive.name
        return outs

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().loop(eqn, ins)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().cond(eqn, ins)

    def switch(
        self, kind: str, what: str, settings: Sequence[tuple[float, str]], operand: Any = None
    ) -> Any:
        number = len(self.places)
        of = 0 if operand is None else self.numbers.setdefault(operand, len(self.numbers) + 1)
        self.places.append(Place(kind, what, tuple(settings), self.outer, of))
        if self.switches is None or number >= len(self.switches):
            return None
        return self.switches[number]
