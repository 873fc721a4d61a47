"""Rules that are right for the operands of a program, though not for any operands.

The gradient by operands that depend on one another, such as a matrix and its Cholesky factor, is
not unique: what one operand's lacks, another's may have. Only what reaches the params through all
of them together is, and it is compared here. So is the gradient by the elements of a symmetric
matrix: only its symmetric part counts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.program._compiled import quick
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._interpreter import Interpreter, bind
from fbp.verify.program._numbers import largest
from fbp.verify.program._program import opened, without_rules
from fbp.verify.rule._subject import Subject
from fbp.verify.sites._harvest import Harvest
from fbp.verify.sites._reached import Reached, operands_of, sites_of
from fbp.verify.sites._whole import Whole

TIED = "its operands depend on one another: their gradients together are right, each alone is not"
SYMMETRIC = "it is right for symmetric matrices only, and here they are symmetric"
_POINTS = 3


def is_right_together(whole: Whole, one: Reached, seed: int) -> bool:
    """Whether a rule gives several operands other gradients, and the params the same as autodiff.

    Only operands that depend on the params count. The cotangents of the rule's outputs are random;
    it is tried at the given params and beside them.

    Args:
      whole: the program.
      one: the call.
      seed: the seed of the cotangents.
    """
    if not whole.x64:
        return False
    try:
        with jax.enable_x64(True):
            return _compared(whole, one, np.random.default_rng(seed))
    except Exception:  # in a loop, or without reverse mode
        return False


def symmetric_operands(whole: Whole, one: Reached, seed: int) -> list[int]:
    """The operands that are symmetric matrices, and stay so when the params are moved."""
    wanted = [n for n, v in enumerate(one.at(-1)[0]) if is_float(v) and _is_symmetric(v)]
    if not wanted or not whole.x64:
        return []
    rng = np.random.default_rng(seed)
    values = list(whole.values)
    for i in whole.diff:
        v = np.asarray(values[i])
        values[i] = v + 0.05 * (np.std(v) or 1.0) * rng.normal(size=v.shape)
    try:
        with jax.enable_x64(True):
            sites = sites_of(whole.program, values)
            place = [site.number for site in sites].index(one.site.number)
            chosen = [wanted if n == place else [] for n in range(len(sites))]
            moved = operands_of(whole.program, values, chosen)[place]
    except Exception:  # raised by a run-time check of the user's
        return []
    last, _ = Reached(sites[place], list(moved), [], []).at(-1)
    return [n for n, v in zip(wanted, last, strict=True) if _is_symmetric(v)]


def symmetrized(subject: Subject, operands: Sequence[int]) -> Subject:
    """The subject as a function of the symmetric parts, (x + x^T) / 2, of some operands."""

    def f(values: Sequence[Any]) -> list[Any]:
        every = list(values)
        for i in operands:
            every[i] = (every[i] + jnp.swapaxes(every[i], -1, -2)) / 2
        return subject.f(every)

    return dataclasses.replace(subject, f=f)


def _is_symmetric(v: Any) -> bool:
    if np.ndim(v) < 2 or v.shape[-1] != v.shape[-2] or v.shape[-1] < 2:
        return False
    off = largest(np.asarray(v) - np.swapaxes(np.asarray(v), -1, -2))
    return off <= 1e-6 * largest(np.asarray(v))


def _compared(whole: Whole, one: Reached, rng: np.random.Generator) -> bool:
    sites = {site.number: site for site in sites_of(whole.program, whole.values)}
    site, number = sites[one.site.number], list(sites).index(one.site.number)
    if site.lengths:
        return False
    plain = opened(without_rules(site.eqn.params["call_jaxpr"]))

    def operands(floats: Sequence[Any]) -> list[Any]:
        forward = Harvest(in_force=False)
        values = whole.subject.filled(whole.values, floats)
        forward.run(whole.program.jaxpr, whole.program.consts, values)
        return forward.inputs[number]

    def gradients(floats: list[Any], dys: list[Any]) -> Any:
        ins, pull_to_params = jax.vjp(operands, floats)
        moving = [i for i, v in enumerate(ins) if is_float(v) and one.moving[i]]

        def pulled(run: Any) -> Any:
            def of_moving(values: list[Any]) -> list[Any]:
                filled = list(ins)
                for i, v in zip(moving, values, strict=True):
                    filled[i] = v
                return list(filter(is_float, run(filled)))

            _, pull = jax.vjp(of_moving, [ins[i] for i in moving])
            (found,) = pull(dys)
            every = [_no_cotangent(v) for v in ins]
            for i, g in zip(moving, found, strict=True):
                every[i] = g
            return found, pull_to_params(every)[0]

        return pulled(lambda v: bind(site.eqn, v)), pulled(lambda v: Interpreter().run(*plain, v))

    given = [np.asarray(whole.values[i]) for i in whole.diff]
    outs = [v.aval for v in site.eqn.outvars if is_float(v.aval)]
    run: Any = None
    differing: set[int] = set()
    for point in range(_POINTS):
        noise = [0.05 * point * np.std(v) * rng.normal(size=v.shape) for v in given]
        floats = [v + n for v, n in zip(given, noise, strict=True)]
        dys = [rng.normal(size=getattr(a, "shape", ())) for a in outs]
        run = run or quick(gradients, floats, dys)
        (mine, through), (theirs, wanted) = jax.device_get(run(floats, dys))
        differing |= _differing(mine, theirs, whole.allowed)
        if _differing(through, wanted, whole.allowed):
            return False
    return len(differing) > 1


def _differing(got: Sequence[Any], wanted: Sequence[Any], allowed: float) -> set[int]:
    size = max(map(largest, wanted), default=0.0)
    pairs = enumerate(zip(got, wanted, strict=True))
    return {k for k, (g, w) in pairs if not largest(g - w) <= allowed * size}


def _no_cotangent(v: Any) -> Any:
    return jnp.zeros(v.shape, v.dtype) if is_float(v) else np.zeros(v.shape, jax.dtypes.float0)
