"""The calls of custom rules in a program, and names for their operands."""

import ast
import dataclasses
import linecache
import re
from typing import Any

from jax.extend.core import JaxprEqn

from fbp.verify.program._program import RULES, programs_in


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a program calls a custom rule.

    Attributes:
      number: its index among the calls, in program order.
      eqn: the call.
      lengths: how often each loop around it runs, from the outermost.
      source: file and line of the call.
    """

    number: int
    eqn: JaxprEqn
    lengths: tuple[int, ...]
    source: tuple[str, int] | None

    @property
    def name(self) -> str:
        """The name of the function that has the rule."""
        return rule_source(self.eqn)[0]

    @property
    def constants(self) -> int:
        """How many of its operands, the first ones, are constants that the rule closes over: jax
        differentiates with respect to none of them."""
        return self.eqn.params.get("num_consts", 0)

    @property
    def operands(self) -> list[str]:
        """Names for its operands: the function's parameters, if its source can be read."""
        return operand_names(self.eqn)


def rule_source(eqn: JaxprEqn) -> tuple[str, str, int]:
    """Name, file and line of the function that a rule belongs to."""
    held = eqn.params["call_jaxpr"]
    said = getattr(getattr(held, "jaxpr", held).debug_info, "func_src_info", None) or ""
    name, _, place = said.partition(" at ")
    file, _, line = place.rpartition(":")
    return name or eqn.primitive.name, file, int(line) if line.isdigit() else 0


def operand_names(eqn: JaxprEqn) -> list[str]:
    """The parameter names of a rule's function; with paths, if they are trees; or "operand i"."""
    _, file, line = rule_source(eqn)
    count, held = len(eqn.invars), eqn.params.get("num_consts", 0)
    names: list[str] = []
    source = "".join(linecache.getlines(file))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first <= line <= node.body[0].lineno - 1 or node.lineno == line:
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                break
    closed_over = [f"closed over {i}" for i in range(held)]
    for known in (names, _paths(eqn)):
        if held + len(known) == count:
            return closed_over + known
    return [f"operand {i}" for i in range(count)]


def _paths(eqn: JaxprEqn) -> list[str]:
    """The names that jax has for the arrays in a rule's arguments, as `params.w`."""
    held = eqn.params["call_jaxpr"]
    traced = (getattr(held, "jaxpr", held), eqn.params.get("fwd_jaxpr_thunk"))
    for one in traced:
        names = getattr(getattr(one, "debug_info", None), "arg_names", None) or ()
        if names:
            return [
                re.sub(r"\[(?:<flat index )?['\"]?(\w+)['\"]?>?\]", r".\1", str(n)) for n in names
            ]
    return []


def rules_in(eqn: JaxprEqn) -> int:
    """How many calls of rules an equation contains, not counting those inside other rules."""
    return sum(map(rules_in_program, programs_in(eqn)))


def rules_in_program(program: Any) -> int:
    return sum(1 if eqn.primitive.name in RULES else rules_in(eqn) for eqn in program.eqns)
