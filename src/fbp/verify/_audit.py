"""`fbp.audit`: checks every custom rule of a whole program on the values that reach it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fbp.verify._check import Budget, examine
from fbp.verify.program._dtypes import is_float
from fbp.verify.program._program import rule_calls, trace
from fbp.verify.report._audit import AuditReport, SiteReport
from fbp.verify.report._card import Report, worst
from fbp.verify.rule._rule import KEEPS, first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.rule._subject_of import subject_of
from fbp.verify.sites._calls import likeness, place_of, subject_of_call, used_cotangents
from fbp.verify.sites._harvest import Reached, harvest
from fbp.verify.sites._whole import Whole


def audit(
    loss: Callable[..., Any], params: Any, *batch: Any, budget: Budget = "fast", seed: int = 0
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

    Raises:
      ValueError: params hold no floats; loss raises, or returns no floats.
    """
    started = time.perf_counter()
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
    groups: dict[Any, list[tuple[Reached, Subject]]] = {}
    for one in reached:
        call = subject_of_call(one)
        groups.setdefault(likeness(one, call), []).append((one, call))
    whole = Whole(subject, notes)
    if whole.kept:
        names = ", ".join(dict.fromkeys(whole.names[n] for n in whole.kept))
        notes.append(
            f"the reference of the whole keeps the rule of {names}: it has no gradient without"
        )
    sites: list[SiteReport] = []
    choices: list[int] = []
    for group in groups.values():
        # The first that the gradient of the whole passes through, not one in a branch not taken.
        used = (pair for pair in group if any(np.any(c) for c in used_cotangents(pair[0])))
        report = _check_site(*next(used, group[0]), budget, seed)
        first, numbers = group[0][0], [one.site.number for one, _ in group]
        effect = whole.error(numbers) if not report.ok else 0.0
        if report.verdict == "WRONG" and effect <= whole.allowed:
            name = first.site.name
            notes.append(f"{name} is wrong elsewhere: what reaches it here gives a right gradient")
        choices += numbers if report.verdict == "CONVENTION" else []
        sites.append(SiteReport(first.site.name, place_of(first), len(group), report, effect))
    hidden = len(whole.names) - len(reached)
    unseen = [site.rule for site in sites if site.report.verdict == "UNVERIFIABLE"]
    if hidden > 0:
        notes.append(f"{hidden} rules inside while or shard_map: checked as parts of the whole")
    if hidden > 0 or unseen:
        report = _examined(subject, None, budget, seed)
        sites.append(SiteReport(f"{subject.name}, as a whole", "", 1, report, 0.0))
    verdicts = [v for v in (site.report.verdict for site in sites) if v != "VACUOUS"]
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
        worst(verdicts) if verdicts else "VACUOUS",
        errors,
        tuple(sites),
        tuple(notes),
        time.perf_counter() - started,
    )


def _check_site(one: Reached, subject: Subject, budget: Budget, seed: int) -> Report:
    if not subject.differentiable:
        return Report(one.site.name, "VACUOUS", notes=("nothing here can be differentiated",))
    dys = used_cotangents(one)
    usable = all(np.isfinite(c).all() for c in dys) and any(np.any(c) for c in dys)
    report = _examined(subject, dys if usable else None, budget, seed)
    if report.verdict == "STRUCTURE" and all(KEEPS in hint.text for hint in report.hints):
        why = (
            "the rule closes over a value of the loss, which is gone when it is checked: jax.grad "
            "of the loss works, jax.grad of jax.jit of it does not"
        )
        return Report(one.site.name, "UNVERIFIABLE", notes=(why,))
    return report


def _examined(subject: Subject, dys: Any, budget: Budget, seed: int) -> Report:
    """Checks a subject; UNVERIFIABLE, with the reason, if that raises."""
    try:
        return examine(subject, None, dys, budget, seed)
    except Exception as error:
        why = f"it could not be checked: {type(error).__name__}: {first_line(error)}"
        return Report(subject.name, "UNVERIFIABLE", notes=(why,))
