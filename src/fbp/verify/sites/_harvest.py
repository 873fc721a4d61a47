"""A run of a program that lists its custom rules, and taps their outputs."""

import functools
from typing import Any

from jax import lax
from jax.extend.core import JaxprEqn

from fbp.verify.program._interpreter import Interpreter, bind
from fbp.verify.program._program import (
    RULES,
    opened,
    scan_splits,
    source_of,
    without_rules,
)
from fbp.verify.sites._sites import Site, rules_in, rules_in_program


class Harvest(Interpreter):
    """Runs a program, records the inputs of each rule, and adds a tap to its outputs.

    The derivative of the whole with respect to a tap that is zero is the cotangent of that call.

    Args:
      in_force: whether the rules are in force, as the user's own program has them; else each call
        is replaced by the function that the rule is for.
      taps: for each site, by its number, what is added to its outputs; None to only list sites.
      first: the number of the first site.
      lengths: how often each loop around this program runs, from the outermost.
    """

    def __init__(
        self,
        in_force: bool,
        taps: dict[int, Any] | None = None,
        first: int = 0,
        lengths: tuple[int, ...] = (),
    ) -> None:
        self.in_force = in_force
        self.taps, self.next, self.lengths = taps, first, lengths
        self.sites: list[Site] = []
        self.inputs: list[list[Any]] = []

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        if eqn.primitive.name not in RULES:
            return super().equation(eqn, ins)
        number, self.next = self.next, self.next + 1
        self.sites.append(Site(number, eqn, self.lengths, source_of(eqn)))
        self.inputs.append(list(ins))
        if self.in_force:
            outs = bind(eqn, ins)
        else:
            plain = without_rules(eqn.params["call_jaxpr"])
            outs = Interpreter().run(*opened(plain), ins)
        if self.taps is None:
            return outs
        return [o if t is None else o + t for o, t in zip(outs, self.taps[number], strict=True)]

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        count, first = rules_in(eqn), self.next
        if not count:
            return super().scan(eqn, ins)
        p = eqn.params
        n, m = scan_splits(p)
        program, consts = opened(p["jaxpr"])
        own_taps = {k: t for k, t in (self.taps or {}).items() if first <= k < first + count}
        sites: list[Site] = []

        def body(carry: list[Any], x: Any) -> Any:
            xs, slices = x
            taps = None if self.taps is None else {**self.taps, **slices}
            inner = Harvest(self.in_force, taps, first, (*self.lengths, p["length"]))
            outs = inner.run(program, consts, [*ins[:n], *carry, *xs])
            sites[:] = inner.sites
            return outs[: m - n], (outs[m - n :], inner.inputs)

        carry, (ys, inputs) = lax.scan(
            body, ins[n:m], (ins[m:], own_taps), length=p["length"], reverse=p["reverse"]
        )
        self._take(sites, inputs, first + count)
        return [*carry, *ys]

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        """The inputs of a site in a branch are those that the branch's own operands give.

        They are computed for every branch, taken or not: the constants of a rule are among them.
        """
        if not rules_in(eqn):
            return super().cond(eqn, ins)
        index, *operands = ins
        branches = [opened(branch) for branch in eqn.params["branches"]]
        firsts = []
        for program, consts in branches:
            firsts.append(self.next)
            listing = Harvest(False, None, self.next, self.lengths)
            listing.run(program, consts, operands)
            self._take(listing.sites, listing.inputs, self.next + rules_in_program(program))

        def run(n: int, *operands: Any) -> list[Any]:
            inner = Harvest(self.in_force, self.taps, firsts[n], self.lengths)
            return inner.run(*branches[n], operands)

        each = [functools.partial(run, n) for n in range(len(branches))]
        return list(lax.switch(index, each, *operands))

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return self.primitive(eqn, ins)

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        self.next += rules_in(eqn)  # in programs that are not opened: while, shard_map, kernels
        return bind(eqn, ins)

    def _take(self, sites: list[Site], inputs: list[Any], following: int) -> None:
        self.sites += sites
        self.inputs += inputs
        self.next = following
