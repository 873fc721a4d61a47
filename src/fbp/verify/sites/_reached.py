"""What reaches each custom rule in a program: its inputs and its cotangents."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.program._moving import moving_outputs
from fbp.verify.program._program import dtype_of
from fbp.verify.sites._harvest import Harvest
from fbp.verify.sites._sites import Site


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
