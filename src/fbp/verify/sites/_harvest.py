"""The inputs and cotangents of each custom rule in a program."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from fbp.verify.program._interpreter import Interpreter, bind
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

    The gradient of the whole program with respect to a tap, at zero, is the cotangent of that call.

    Args:
      taps: by the number of the site, the arrays to add to its outputs; None to only list sites.
      first: the number of the first site.
      lengths: how often each loop around this program runs, from the outermost.
    """

    def __init__(
        self, taps: dict[int, Any] | None = None, first: int = 0, lengths: tuple[int, ...] = ()
    ) -> None:
        self.taps, self.next, self.lengths = taps, first, lengths
        self.sites: list[Site] = []
        self.inputs: list[list[Any]] = []

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        if eqn.primitive.name not in RULES:
            return super().equation(eqn, ins)
        number, self.next = self.next, self.next + 1
        self.sites.append(Site(number, eqn, self.lengths, source_of(eqn)))
        self.inputs.append(list(ins))
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
            inner = Harvest(taps, first, (*self.lengths, p["length"]))
            outs = inner.run(program, consts, [*ins[:n], *carry, *xs])
            sites[:] = inner.sites
            return outs[: m - n], (outs[m - n :], inner.inputs)

        carry, (ys, inputs) = lax.scan(
            body, ins[n:m], (ins[m:], own_taps), length=p["length"], reverse=p["reverse"]
        )
        self._take(sites, inputs, first + count)
        return [*carry, *ys]

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        """Branches also return the inputs of their sites, and zeros for those of the others."""
        if not rules_in(eqn):
            return super().cond(eqn, ins)
        index, *operands = ins
        branches = [opened(branch) for branch in eqn.params["branches"]]
        counts = [rules_in_program(program) for program, _ in branches]
        firsts = [self.next + sum(counts[:n]) for n in range(len(counts))]
        sites: dict[int, list[Site]] = {}

        def run(n: int, *operands: Any) -> Any:
            inner = Harvest(self.taps, firsts[n], self.lengths)
            outs = inner.run(*branches[n], operands)
            sites[n] = inner.sites
            return outs, inner.inputs

        shapes = [
            jax.eval_shape(functools.partial(run, n), *operands)[1] for n in range(len(counts))
        ]

        def branch(n: int, *operands: Any) -> Any:
            outs, inputs = run(n, *operands)
            blank = [jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), s) for s in shapes]
            return outs, [*blank[:n], inputs, *blank[n + 1 :]]

        each = [functools.partial(branch, n) for n in range(len(counts))]
        outs, inputs = lax.switch(index, each, *operands)
        for n in range(len(counts)):
            self._take(sites[n], inputs[n], firsts[n] + counts[n])
        return list(outs)

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
    """The inputs and cotangents of a site, stacked over the loops around it."""

    site: Site
    inputs: list[np.ndarray]
    cotangents: list[np.ndarray | None]

    def at(self, which: int) -> tuple[list[Any], list[Any]]:
        """Inputs and cotangents of one iteration, counted over all loops around the site."""
        n = len(self.site.lengths)

        def one(a: Any) -> Any:
            return a if a is None or not n else a.reshape(-1, *a.shape[n:])[which]

        return [one(a) for a in self.inputs], [one(a) for a in self.cotangents]


def sites_of(program: ClosedJaxpr, values: Sequence[Any]) -> list[Site]:
    """The calls of rules in a program, except those inside `while`, `shard_map` and kernels."""
    listing = Harvest()
    jax.eval_shape(lambda v: listing.run(program.jaxpr, program.consts, v), list(values))
    return listing.sites


def harvest(
    program: ClosedJaxpr, values: Sequence[Any], dys: Sequence[Any], outs: Sequence[int]
) -> list[Reached]:
    """The inputs and cotangents of every site, from one forward and backward pass of a program.

    Args:
      program: traced in the dtype of the values.
      values: its inputs.
      dys: cotangents of its float outputs.
      outs: the indices of those outputs.
    """
    sites = sites_of(program, values)
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
        run = Harvest(taps)
        results = run.run(program.jaxpr, program.consts, list(values))
        return [results[i] for i in outs], run.inputs

    def pull(taps: Any, dys: Any) -> Any:
        _, vjp, inputs = jax.vjp(f, taps, has_aux=True)
        return inputs, vjp(dys)[0]

    inputs, cotangents = jax.device_get(jax.jit(pull)(taps, list(dys)))
    return [Reached(s, inputs[n], cotangents[s.number]) for n, s in enumerate(sites)]
