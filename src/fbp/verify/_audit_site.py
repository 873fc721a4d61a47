"""The judgement of one rule in an audit: by itself, and for what the program makes of it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fbp.verify._deadline import Deadline
from fbp.verify._stages import Budget, examine
from fbp.verify.report._audit import SiteReport
from fbp.verify.report._card import Hint, Report
from fbp.verify.rule._rule import KEEPS, first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.sites._calls import is_sampler, place_of, reference_of_call, used_cotangents
from fbp.verify.sites._reached import Reached
from fbp.verify.sites._tied import (
    SYMMETRIC,
    TIED,
    is_right_together,
    symmetric_operands,
    symmetrized,
)
from fbp.verify.sites._whole import Whole

SAMPLER = (
    "it draws random numbers in a loop that rejects some: autodiff holds fixed which, so it is no "
    "reference for a rule by implicit reparametrisation; expect= accepts the rule"
)
_CLOSES_OVER = (
    "the rule closes over a value of the loss, which is gone when it is checked: jax.grad of the "
    "loss works, jax.grad of jax.jit of it does not"
)


class Options(NamedTuple):
    """What an audit was asked for, as its arguments say."""

    budget: Budget
    seed: int
    deadline: Deadline


def site_report(
    calls: Sequence[tuple[Reached, Subject]],
    whole: Whole,
    exception: str | Callable[..., Any] | None,
    options: Options,
    notes: list[str],
) -> SiteReport:
    """Checks one rule, on what reaches one of its equal calls.

    Args:
      calls: the calls, each as a subject.
      whole: the gradient of the whole program.
      exception: what `expect` says of the rule.
      options: how to check it.
      notes: takes remarks for the reader of the audit.
    """
    first, numbers = calls[0][0], [one.site.number for one, _ in calls]
    # The first that the gradient of the whole passes through, not one in a branch not taken.
    used = (pair for pair in calls if any(np.any(c) for c in used_cotangents(pair[0])))
    one, subject = next(used, calls[0])
    reference = exception if callable(exception) else None
    report = _checked(one, subject, reference, options)
    if report.verdict == "WRONG" and reference is None and is_sampler(first):
        report = Report(first.site.name, "UNVERIFIABLE", notes=(SAMPLER,))
        whole.keep(numbers)
    if isinstance(exception, str) and report.ok:
        notes.append(f"expect: {first.site.name} is right here, and needs no exception")
    effect = math.nan
    if report.ok or report.verdict == "VACUOUS":
        effect = 0.0
    elif report.verdict != "UNVERIFIABLE" and not options.deadline.is_over():
        effect = whole.error(numbers)
    if report.verdict == "WRONG" and effect <= whole.allowed:
        why = _why_right_here(one, subject, whole, options)
        if why:
            report = _as_convention(report, why)
        else:
            name = first.site.name
            notes.append(f"{name} is wrong elsewhere: what reaches it here gives a right gradient")
    reason = exception if isinstance(exception, str) and not report.ok else ""
    return SiteReport(first.site.name, place_of(first), len(calls), report, effect, reason)


def examined(
    subject: Subject, dys: Any, options: Options, reference: Subject | None = None
) -> Report:
    """Checks a subject; UNVERIFIABLE, with the reason, if that raises."""
    budget, seed, deadline = options
    try:
        return examine(subject, reference, dys, budget, seed, deadline=deadline)
    except Exception as error:
        why = f"it could not be checked: {type(error).__name__}: {first_line(error)}"
        return Report(subject.name, "UNVERIFIABLE", notes=(why,))


def _checked(
    one: Reached, subject: Subject, reference: Callable[..., Any] | None, options: Options
) -> Report:
    if not subject.differentiable:
        return Report(one.site.name, "VACUOUS", notes=("nothing here can be differentiated",))
    held_against = None if reference is None else reference_of_call(one, subject, reference)
    report = examined(subject, _cotangents(one), options, held_against)
    if report.verdict == "STRUCTURE" and all(KEEPS in hint.text for hint in report.hints):
        return Report(one.site.name, "UNVERIFIABLE", notes=(_CLOSES_OVER,))
    return report


def _cotangents(one: Reached) -> list[np.ndarray] | None:
    """Those that reach the call; None where they say nothing: not finite, or all zero."""
    dys = used_cotangents(one)
    usable = all(np.isfinite(c).all() for c in dys) and any(np.any(c) for c in dys)
    return dys if usable else None


def _why_right_here(one: Reached, subject: Subject, whole: Whole, options: Options) -> str:
    """Why a rule that is wrong for any operands is right for those it has here; "" if it is not."""
    if is_right_together(whole, one, options.seed):
        return TIED
    operands = symmetric_operands(whole, one, options.seed)
    if operands and examined(symmetrized(subject, operands), _cotangents(one), options).ok:
        return SYMMETRIC
    return ""


def _as_convention(report: Report, why: str) -> Report:
    """The report of a rule that is WRONG alone, and right in the program that calls it."""
    rows = [
        dataclasses.replace(row, verdict="CONVENTION") if row.verdict == "WRONG" else row
        for row in report.leaves
    ]
    return dataclasses.replace(
        report, verdict="CONVENTION", leaves=tuple(rows), hints=(Hint("", "convention", why),)
    )
