"""Checks the derivative of a rule's gradient, that is the second derivatives of the function.

At each point the rule's gradient g is differentiated along a random direction, in float64, and
compared with the derivative of autodiff's gradient. At a kink the latter depends on the choice of a
subgradient, so the reference there is g itself, whose values are checked elsewhere: if its
one-sided finite differences agree, g has a derivative, and the rule must return that. Along dy, in
which it is linear, the derivative of g is g.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.probe._probes import Probe
from fbp.verify.probe._transforms import gradient_of
from fbp.verify.program._numbers import largest, leeway_of_approximations
from fbp.verify.program._program import as_function, evaluate, part_of, trace
from fbp.verify.rule._derived import along_dy, holds_fixed, second
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._runs import Runs

NAME = "the gradient differentiated forwards (grad of grad)"
# Closer to a kink than this, autodiff's second derivative may follow another convention.
_SMOOTH = 1e-4


def second_derivatives(
    runs: Runs, pairs: Sequence[tuple[Probe, Pair]], wiggles: Sequence[float]
) -> tuple[str, list[tuple[int, str]]]:
    """Compares at the given input, at zero, and at the smoothest of the first few probes.

    Args:
      runs: the rule and the reference.
      pairs: the probes that were run, with their results.
      wiggles: for each leaf, the error of the reference gradient that the function's own error has.

    Returns:
      A short summary, and for each wrong leaf its index and one line of text.
    """
    if runs.draws:
        return "not compared: it draws random numbers", []
    if holds_fixed(runs):
        return "not compared: the function holds something fixed", []
    smooth = max(pairs[:3], key=lambda pair: min(pair[1].margin, 0.1))
    zero = [pair for pair in pairs if pair[0].name == "all zero"]
    rng = np.random.default_rng(0)
    wrong: dict[int, str] = {}
    worst, compared = 0.0, False
    for probe, pair in _distinct([smooth, pairs[0], *zero]):
        moves = [rng.normal(size=np.shape(probe.values[i])) for i in runs.diff]
        if runs.subject.domain is not None:
            # A rule may be right in the domain only, so derivatives are those along it.
            along = dict(zip(runs.diff, moves, strict=True))
            tangents = runs.subject.domain.tangents(runs.wide(probe.values), along)
            moves = [tangents[i] for i in runs.diff]
        try:
            rule, auto = second(runs, probe.values, probe.dys, moves)
            by_dy = zip(*along_dy(runs, probe.values, probe.dys), strict=True)
            for k, (got_by, g) in enumerate(by_dy):
                if np.isfinite(g).all() and _error(got_by, g, largest(g)) > _allowed(runs):
                    wrong.setdefault(k, f"under {NAME} dy is held fixed ({probe.name})")
        except Exception as error:
            return f"not supported: {type(error).__name__}: {first_line(error)[:90]}", []
        size = max((largest(g) for g in pair.rule_grads), default=0.0)
        for k, got in enumerate(rule):
            if not got.size:
                continue
            want: Any = auto[k] if auto else None
            allowed = max(_allowed(runs), of_derivative(wiggles[k]))
            if want is None or (pair.margin < _SMOOTH and _error(got, want, size) > allowed):
                want = _by_differences(runs, probe, pair, moves, k)
            if want is None or not np.isfinite(want).all():
                continue
            compared = True
            off = _error(got, want, size)
            worst = max(worst, off)
            if off > allowed:
                wrong.setdefault(k, f"under {NAME} it differs by {off:.1e} ({probe.name})")
    if not compared:
        return "not compared: it has no derivative at the inputs that were tried", []
    return (f"differs by {worst:.1e}" if wrong else "same"), list(wrong.items())


def undifferentiable(runs: Runs) -> list[int | None]:
    """The gradients that cannot be differentiated although the function's own can be.

    [None] stands for all of them together.
    """
    values = runs.narrow(runs.subject.values)
    dys = [jnp.zeros(a.shape, a.dtype) for a in runs.out_avals]
    args = ([values[i] for i in runs.diff], dys)
    plain = trace(gradient_of(runs.subject, as_function(runs.plain), values), *args)
    if not _is_differentiable(plain, *args):
        return []
    rule = trace(gradient_of(runs.subject, runs.subject.f, values), *args)
    each = range(len(runs.diff))
    return [k for k in each if not _is_differentiable(part_of(rule, [k]), *args)] or [None]


def _is_differentiable(program: ClosedJaxpr, *args: Any) -> bool:
    flat = jax.tree.leaves(args)
    try:
        jax.eval_shape(lambda *v: jax.jvp(functools.partial(evaluate, program), v, v), *flat)
    except Exception:
        return False
    return True


def _distinct(pairs: Sequence[tuple[Probe, Pair]]) -> list[tuple[Probe, Pair]]:
    return list({id(probe): (probe, pair) for probe, pair in pairs}.values())


def _allowed(runs: Runs) -> float:
    dtypes = [runs.dtypes[i] for i in runs.diff]
    unit = min(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    leeway = leeway_of_approximations(unit, runs.iterates)
    return max(1e-6, runs.eps**0.4, leeway, of_derivative(runs.subject.accuracy))


def of_derivative(accuracy: float) -> float:
    """The error that the derivative of an error of this size may have: 2 sqrt(accuracy).

    By Landau's inequality |e'| <= 2 sqrt(|e| |e''|), where e'' is of the size of what e is an error
    of.
    """
    return 2 * accuracy**0.5


def _error(got: np.ndarray, want: np.ndarray, size: float) -> float:
    """The error relative to the size of the derivative, or 1e-3 of the gradient's if larger."""
    if not np.isfinite(got).all():
        return float("inf") if np.isfinite(want).all() else 0.0
    scale = max(largest(want), 1e-3 * size)
    return largest(got - want) / scale if scale else 0.0


def _by_differences(
    runs: Runs, probe: Probe, pair: Pair, moves: Sequence[np.ndarray], k: int
) -> np.ndarray | None:
    """The derivative of the rule's gradient along `moves`, or None unless both sides agree."""

    def at(h: float) -> np.ndarray:
        given = runs.wide(probe.values)
        values = list(given)
        for i, move in zip(runs.diff, moves, strict=True):
            values[i] = values[i] + h * move
        values = runs.subject.inside(values, given) or given
        return runs.exact(values, probe.dys).rule_grads[k]

    here, h = pair.rule_grads[k], 1e-5
    with np.errstate(invalid="ignore"):
        ahead, behind = (at(h) - here) / h, (here - at(-h)) / h
    scale = max(largest(ahead), largest(behind))
    if not scale < np.inf or largest(ahead - behind) > 1e-2 * scale:
        return None
    # An error of the differences would be reported as the rule's, so it must be small.
    nearer = (at(h / 2) - at(-h / 2)) / h
    return nearer if largest(nearer - (ahead + behind) / 2) <= 1e-7 * max(scale, 1e-3) else None
