"""`fbp.audit`: checks every custom rule of a whole program on the values that reach it."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fbp.verify._check import Budget, examine
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._program import rule_calls, trace
from fbp.verify.report._audit import AuditReport, SiteReport
from fbp.verify.report._card import Hint, Report, worst
from fbp.verify.rule._rule import KEEPS, first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.rule._subject_of import subject_of
from fbp.verify.sites._calls import (
    in_float64,
    is_sampler,
    likeness,
    place_of,
    reference_of_call,
    subject_of_call,
    used_cotangents,
)
from fbp.verify.sites._harvest import Reached, harvest
from fbp.verify.sites._tied import TIED, is_right_together
from fbp.verify.sites._whole import Whole


def audit(
    loss: Callable[..., Any],
    params: Any,
    *batch: Any,
    budget: Budget = "fast",
    seed: int = 0,
    expect: Mapping[str, str | Callable[..., Any]] | None = None,
) -> AuditReport:
    """Checks every custom rule in a program, and finds those that make the whole gradient wrong.

    The program of `loss(params, *batch)` is run once, forward and backward. The check of each
    `custom_vjp` and `custom_jvp` call, also inside jit, scan, cond and remat, starts from the
    inputs and cotangents that reach it in that run. This works for any program: flax, equinox or
    plain JAX. Equal calls, such as those of repeated blocks, are checked once, on the inputs of the
    first (in a loop, those of its last iteration). Not differentiated are constants that a rule
    closes over, and operands that do not depend on params if the rule gives them no gradient.

    The gradient of the whole program is compared with that of the same program without its custom
    rules. A rule without which the program has no gradient, such as that of a fixed point, stays in
    this reference, and a note names it; it is still checked by itself. What cannot be judged is
    UNVERIFIABLE, and a note says why.

    Args:
      loss: a function of params and the batch; its float outputs are differentiated.
      params: a tree of arrays (other values stay as they are).
      *batch: the rest of its arguments.
      budget: the budget of each check, as for `fbp.check`.
      seed: the seed of the random draws.
      expect: exceptions, by the name of a rule as the report shows it. A reason in words: the rule
        may be another derivative than its function's, as those of straight-through estimators and
        of samplers are; it is checked, but what is found does not count. Or a function: the rule is
        compared with that function's derivative; it is called with the arrays that reach the rule.
        The reference of the whole gradient keeps these rules.

    Raises:
      TypeError: expect holds something else.
      ValueError: params hold no floats; loss raises, or returns no floats.
    """
    started = time.perf_counter()
    expect = dict(expect or {})
    for name, what in expect.items():
        if not isinstance(what, str) and not callable(what):
            got = type(what).__name__
            raise TypeError(f"expect of {name}: expected a reason or a function, got {got}")
    subject = subject_of(loss, (params, *batch), argnums=(0,))
    notes: list[str] = []
    narrow = subject.values
    try:
        program = trace(subject.f, narrow)
    except Exception as error:
        text = f"{subject.name} raises on these arguments: {first_line(error)}"
        raise ValueError(text) from error
    if not any(True for _ in rule_calls(program)):
        note = "no custom rule is reached: there is nothing to audit"
        return AuditReport(subject.name, "VACUOUS", {}, (), (note,), time.perf_counter() - started)
    outs = [i for i, a in enumerate(program.out_avals) if is_float(a)]
    if not outs:
        raise ValueError(f"{subject.name}: expected an output with floats")
    dys = [np.ones(program.out_avals[i].shape, program.out_avals[i].dtype) for i in outs]
    reached = harvest(program, narrow, subject.differentiable, dys, outs)
    whole = Whole(subject, notes, expect)
    wide = in_float64(reached, whole.program, whole.values) if whole.x64 else [None] * len(reached)
    groups: dict[Any, list[tuple[Reached, Subject]]] = {}
    for one, eqn in zip(reached, wide, strict=True):
        if 0 in one.site.lengths:
            note = f"{one.site.name} is not checked: a loop around it makes no step"
            notes += [note] if note not in notes else []
            continue
        call = subject_of_call(one, eqn)
        groups.setdefault(likeness(one, call), []).append((one, call))
    if kept := dict.fromkeys(whole.names[n] for n in whole.needed):
        notes.append(
            f"the reference of the whole keeps the rule of {', '.join(kept)}: it has no gradient "
            "without"
        )
    if unknown := [name for name in expect if name not in whole.names]:
        notes.append(f"expect: no rule named {', '.join(unknown)} is reached")
    sites: list[SiteReport] = []
    choices: list[int] = []
    for group in groups.values():
        # The first that the gradient of the whole passes through, not one in a branch not taken.
        used = (pair for pair in group if any(np.any(c) for c in used_cotangents(pair[0])))
        first, numbers = group[0][0], [one.site.number for one, _ in group]
        exception = expect.get(first.site.name)
        reference = exception if callable(exception) else None
        report = _check_site(*next(used, group[0]), reference, budget, seed)
        if report.verdict == "WRONG" and reference is None and is_sampler(first):
            report = Report(first.site.name, "UNVERIFIABLE", notes=(SAMPLER,))
            whole.keep(numbers)
        reason = exception if isinstance(exception, str) and not report.ok else ""
        if isinstance(exception, str) and report.ok:
            notes.append(f"expect: {first.site.name} is right here, and needs no exception")
        effect = math.nan
        if report.ok or report.verdict == "VACUOUS":
            effect = 0.0
        elif report.verdict != "UNVERIFIABLE":
            effect = whole.error(numbers)
        if report.verdict == "WRONG" and effect <= whole.allowed:
            name = first.site.name
            if is_right_together(whole, first, seed):
                report = _as_convention(report, TIED)
            else:
                text = f"{name} is wrong elsewhere: what reaches it here gives a right gradient"
                notes.append(text)
        choices += numbers if report.verdict == "CONVENTION" else []
        place = place_of(first)
        sites.append(SiteReport(first.site.name, place, len(group), report, effect, reason))
    hidden = len(whole.names) - len(reached)
    # Of a sampler the whole has no other reference either.
    unseen = [
        s for s in sites if s.report.verdict == "UNVERIFIABLE" and SAMPLER not in s.report.notes
    ]
    if hidden > 0:
        notes.append(f"{hidden} rules inside while or shard_map: checked as parts of the whole")
    if hidden > 0 or unseen:
        report = _examined(dataclasses.replace(subject, is_whole=True), None, budget, seed)
        sites.append(SiteReport(f"{subject.name}, as a whole", "", 1, report, 0.0))
    verdicts = [site.report.verdict for site in sites if not site.expected]
    verdicts = [v for v in verdicts if v != "VACUOUS"]
    errors = whole.errors()
    if not whole.exact:
        verdicts.append("UNVERIFIABLE")
    is_off = max(errors.values(), default=0.0) > whole.allowed
    if is_off and worst(verdicts) in ("OK", "CONVENTION"):
        # The error may come from choices at kinks: without those rules it must vanish.
        others = [n for n in range(len(whole.names)) if n not in choices]
        if choices and whole.error(others) <= whole.allowed:
            notes.append("the whole gradient is another one at a kink: see the conventions")
        else:
            notes.append("the whole gradient is off, though every rule alone is right")
            verdicts.append("WRONG")
    return AuditReport(
        subject.name,
        worst(verdicts) if verdicts else "OK" if any(s.expected for s in sites) else "VACUOUS",
        errors,
        tuple(sites),
        tuple(notes),
        time.perf_counter() - started,
    )


SAMPLER = (
    "it draws random numbers in a loop that rejects some: autodiff holds fixed which, so it is no "
    "reference for a rule by implicit reparametrisation; expect= accepts the rule"
)


def _check_site(
    one: Reached,
    subject: Subject,
    reference: Callable[..., Any] | None,
    budget: Budget,
    seed: int,
) -> Report:
    if not subject.differentiable:
        return Report(one.site.name, "VACUOUS", notes=("nothing here can be differentiated",))
    dys = used_cotangents(one)
    usable = all(np.isfinite(c).all() for c in dys) and any(np.any(c) for c in dys)
    held_against = None if reference is None else reference_of_call(one, subject, reference)
    report = _examined(subject, dys if usable else None, budget, seed, held_against)
    if report.verdict == "STRUCTURE" and all(KEEPS in hint.text for hint in report.hints):
        why = (
            "the rule closes over a value of the loss, which is gone when it is checked: jax.grad "
            "of the loss works, jax.grad of jax.jit of it does not"
        )
        return Report(one.site.name, "UNVERIFIABLE", notes=(why,))
    return report


def _as_convention(report: Report, why: str) -> Report:
    """The report of a rule that is WRONG alone, and right in the program that calls it."""
    rows = [
        dataclasses.replace(row, verdict="CONVENTION") if row.verdict == "WRONG" else row
        for row in report.leaves
    ]
    return dataclasses.replace(
        report, verdict="CONVENTION", leaves=tuple(rows), hints=(Hint("", "convention", why),)
    )


def _examined(
    subject: Subject, dys: Any, budget: Budget, seed: int, reference: Subject | None = None
) -> Report:
    """Checks a subject; UNVERIFIABLE, with the reason, if that raises."""
    try:
        return examine(subject, reference, dys, budget, seed)
    except Exception as error:
        why = f"it could not be checked: {type(error).__name__}: {first_line(error)}"
        return Report(subject.name, "UNVERIFIABLE", notes=(why,))
