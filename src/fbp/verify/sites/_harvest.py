"""The inputs and cotangents of each custom rule in a program."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from fbp.verify.program._interpreter import Interpreter, bind
from fbp.verify.program._moving import moving_outputs
from fbp.verify.program._program import (
    RULES,
    dtype_of,
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


@dataclasses.dataclass(frozen=True)
class Reached:
    """What reaches a site, stacked over the loops around it.

    Attributes:
      site: the call.
      inputs: its operands.
      cotangents: those of its outputs; [] if the program has no reverse mode.
      moving: for each operand, whether it depends on what the program is differentiated with
        respect to.
    """

    site: Site
    inputs: list[np.ndarray]
    cotangents: list[np.ndarray | None]
    moving: list[bool]

    def at(self, which: int) -> tuple[list[Any], list[Any]]:
        """Inputs and cotangents of one iteration, counted over all loops around the site."""
        n = len(self.site.lengths)

        def one(a: Any) -> Any:
            if a is None or not n:
                return a
            return a.reshape(math.prod(a.shape[:n]), *a.shape[n:])[which]

        return [one(a) for a in self.inputs], [one(a) for a in self.cotangents]


def sites_of(program: ClosedJaxpr, values: Sequence[Any]) -> list[Site]:
    """The calls of rules in a program, those in `while` loops and kernels left out."""
    listing = Harvest(in_force=False)
    jax.eval_shape(lambda v: listing.run(program.jaxpr, program.consts, v), list(values))
    return listing.sites


def operands_of(
    program: ClosedJaxpr, values: Sequence[Any], wanted: Sequence[Sequence[int]]
) -> list[list[np.ndarray]]:
    """Some operands of each site, by their indices, stacked over the loops around it."""

    def run(values: list[Any]) -> list[list[Any]]:
        forward = Harvest(in_force=False)
        forward.run(program.jaxpr, program.consts, values)
        return [[ins[n] for n in ns] for ins, ns in zip(forward.inputs, wanted, strict=True)]

    return jax.device_get(jax.jit(run)(list(values))) if any(wanted) else [[] for _ in wanted]


def harvest(
    program: ClosedJaxpr,
    values: Sequence[Any],
    diff: Sequence[int],
    dys: Sequence[Any],
    outs: Sequence[int],
) -> list[Reached]:
    """The inputs and cotangents of every site, from one forward and backward pass of a program.

    Its rules are in force, for they may be what makes it differentiable. Where that raises they are
    taken out; and where the program has no reverse mode then, the cotangents are left out.

    Args:
      program: traced in the dtype of the values.
      values: its inputs.
      diff: the inputs that it is differentiated with respect to.
      dys: cotangents of its float outputs.
      outs: the indices of those outputs.
    """
    sites = sites_of(program, values)

    def inputs_of(values: list[Any]) -> list[list[Any]]:
        forward = Harvest(in_force=False)
        forward.run(program.jaxpr, program.consts, values)
        return forward.inputs

    flat = moving_outputs(
        jax.make_jaxpr(inputs_of)(list(values)), [i in diff for i in range(len(values))]
    )
    each = iter(flat)
    moving = [[next(each) for _ in site.eqn.invars] for site in sites]
    inputs: Any = None
    cotangents: dict[int, Any] = {}
    for in_force in (True, False):
        try:
            inputs, cotangents = _passes(program, sites, values, dys, outs, in_force)
            break
        except Exception:
            continue
    if inputs is None:
        inputs = jax.device_get(jax.jit(inputs_of)(list(values)))
    return [
        Reached(site, inputs[n], cotangents.get(site.number, []), moving[n])
        for n, site in enumerate(sites)
    ]


def _passes(
    program: ClosedJaxpr,
    sites: Sequence[Site],
    values: Sequence[Any],
    dys: Sequence[Any],
    outs: Sequence[int],
    in_force: bool,
) -> tuple[list[Any], dict[int, Any]]:
    """The inputs of every site, in order, and the cotangents by its number."""
    taps = {
        site.number: [
            jnp.zeros((*site.lengths, *getattr(v.aval, "shape", ())), dtype_of(v))
            if jnp.issubdtype(dtype_of(v), jnp.inexact)
            else None
            for v in site.eqn.outvars
        ]
        for site in sites
    }

    def f(taps: Any) -> Any:
        run = Harvest(in_force, taps)
        results = run.run(program.jaxpr, program.consts, list(values))
        return [results[i] for i in outs], run.inputs

    def pull(taps: Any, dys: Any) -> Any:
        _, vjp, inputs = jax.vjp(f, taps, has_aux=True)
        return inputs, vjp(dys)[0]

    return jax.device_get(jax.jit(pull)(taps, list(dys)))
