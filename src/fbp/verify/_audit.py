"""`fbp.audit`: checks every custom rule of a whole program on the values that reach it."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify._audit_site import SAMPLER, Options, examined, site_report
from fbp.verify._deadline import Deadline
from fbp.verify._stages import Budget
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._program import rule_calls, trace
from fbp.verify.report._audit import AuditReport, SiteReport
from fbp.verify.report._card import Report, worst
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.rule._subject_of import subject_of
from fbp.verify.sites._calls import in_float64, likeness, place_of, subject_of_call
from fbp.verify.sites._reached import Reached, harvest
from fbp.verify.sites._whole import Whole


def audit(
    loss: Callable[..., Any],
    params: Any,
    *batch: Any,
    budget: Budget = "fast",
    seed: int = 0,
    seconds: float | None = None,
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
      seconds: a limit: rules that are not checked by then are UNVERIFIABLE. What has begun, such as
        the compilation of a program, is not interrupted.
      expect: exceptions, by the name of a rule as the report shows it. A reason in words: the rule
        may be another derivative than its function's, as those of straight-through estimators and
        of samplers are; it is checked, but what is found does not count. Or a function: the rule is
        compared with that function's derivative; it is called with the arrays that reach the rule.
        The reference of the whole gradient keeps these rules.

    Raises:
      TypeError: expect holds something else.
      ValueError: params hold no floats; loss raises, or returns no floats; seconds is not positive.
    """
    started = time.perf_counter()
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"audit: expected seconds above 0, got {seconds!r}")
    expect = dict(expect or {})
    for name, what in expect.items():
        if not isinstance(what, str) and not callable(what):
            got = type(what).__name__
            raise TypeError(f"expect of {name}: expected a reason or a function, got {got}")
    subject = subject_of(loss, (params, *batch), argnums=(0,))
    try:
        program = trace(subject.f, subject.values)
    except Exception as error:
        text = f"{subject.name} raises on these arguments: {first_line(error)}"
        raise ValueError(text) from error
    if not any(True for _ in rule_calls(program)):
        note = "no custom rule is reached: there is nothing to audit"
        return AuditReport(subject.name, "VACUOUS", {}, (), (note,), time.perf_counter() - started)
    if not any(map(is_float, program.out_avals)):
        raise ValueError(f"{subject.name}: expected an output with floats")
    with Deadline(seconds, subject.name) as deadline:
        report = _audited(subject, program, expect, Options(budget, seed, deadline))
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _audited(
    subject: Subject, program: ClosedJaxpr, expect: Mapping[str, Any], options: Options
) -> AuditReport:
    notes: list[str] = []
    outs = [i for i, a in enumerate(program.out_avals) if is_float(a)]
    dys = [np.ones(program.out_avals[i].shape, program.out_avals[i].dtype) for i in outs]
    options.deadline.show("running the program")
    reached = harvest(program, subject.values, subject.differentiable, dys, outs)
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
    for calls in groups.values():
        name, numbers = calls[0][0].site.name, [one.site.number for one, _ in calls]
        if options.deadline.allows(f"the rule of {name}") or not sites:
            sites.append(site_report(calls, whole, expect.get(name), options, notes))
            choices += numbers if sites[-1].report.verdict == "CONVENTION" else []
        else:
            left_out = Report(name, "UNVERIFIABLE", notes=("left out: out of time",))
            sites.append(SiteReport(name, place_of(calls[0][0]), len(calls), left_out, math.nan))
    hidden = len(whole.names) - len(reached)
    # Of a sampler the whole has no other reference either.
    unseen = [
        s for s in sites if s.report.verdict == "UNVERIFIABLE" and SAMPLER not in s.report.notes
    ]
    if hidden > 0:
        notes.append(f"{hidden} rules inside while or shard_map: checked as parts of the whole")
    seen: list[SiteReport] = []
    if (hidden > 0 or unseen) and options.deadline.allows("the whole as one rule"):
        report = examined(dataclasses.replace(subject, is_whole=True), None, options)
        sites.append(SiteReport(f"{subject.name}, as a whole", "", 1, report, 0.0))
        if report.ok:
            # Its reference keeps no rule, so what cannot be judged alone is judged with it.
            seen = unseen
            names = ", ".join(dict.fromkeys(site.rule for site in seen))
            notes += [f"checked as parts of the whole: {names}"] if seen else []
    counted = [site for site in sites if not site.expected and site not in seen]
    verdicts = [v for v in (site.report.verdict for site in counted) if v != "VACUOUS"]
    errors = whole.errors()
    if not whole.exact and not seen:
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
    if said := options.deadline.said():
        notes.insert(0, said)
        verdicts.append("UNVERIFIABLE")
    return AuditReport(
        subject.name,
        worst(verdicts) if verdicts else "OK" if any(s.expected for s in sites) else "VACUOUS",
        errors,
        tuple(sites),
        tuple(notes),
    )
