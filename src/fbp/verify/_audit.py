"""`fbp.audit`: checks every custom rule of a whole program on the values that reach it."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify._check import Budget, examine
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._interpreter import bind
from fbp.verify.program._program import dtype_of, rule_calls, trace
from fbp.verify.report._audit import AuditReport, SiteReport
from fbp.verify.report._card import Report, worst
from fbp.verify.rule._rule import KEEPS, fingerprint, first_line
from fbp.verify.rule._subject import Leaf, Subject
from fbp.verify.rule._subject_of import subject_of
from fbp.verify.sites._harvest import Reached, harvest
from fbp.verify.sites._sites import rule_source
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
    groups: dict[Any, list[Reached]] = {}
    for one in reached:
        groups.setdefault(_alike(one), []).append(one)
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
        shown = next((one for one in group if any(np.any(c) for c in _cotangents(one))), group[0])
        report = _check_site(shown, budget, seed)
        numbers = [one.site.number for one in group]
        effect = whole.error(numbers) if not report.ok else 0.0
        if report.verdict == "WRONG" and effect <= whole.allowed:
            name = group[0].site.name
            notes.append(f"{name} is wrong elsewhere: what reaches it here gives a right gradient")
        choices += numbers if report.verdict == "CONVENTION" else []
        sites.append(SiteReport(group[0].site.name, _place(group[0]), len(group), report, effect))
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


def _used_outputs(one: Reached) -> list[int]:
    """The outputs of a call that the loss depends on, by their cotangents; all if there is none."""
    used = [i for i, c in enumerate(one.cotangents) if c is not None and np.any(c)]
    return used or list(range(len(one.site.eqn.outvars)))


def _cotangents(one: Reached) -> list[np.ndarray]:
    """The cotangents of the outputs that the loss depends on."""
    cotangents = one.at(-1)[1]
    return [c for c in (cotangents[i] for i in _used_outputs(one) if cotangents) if c is not None]


def _alike(one: Reached) -> Any:
    """A key that is equal for calls of the same rule with the same constants and shapes."""
    program = fingerprint(_subject(one))
    return one.site.name, one.site.number if program is None else program


def _place(one: Reached) -> str:
    _, file, line = rule_source(one.site.eqn)
    if one.site.source is not None:
        file, line = one.site.source
    return f"{os.path.basename(file)}:{line}" if file else ""


def _subject(one: Reached) -> Subject:
    """The call of a rule as a subject, with the inputs that reach it."""
    eqn = one.site.eqn
    inputs, _ = one.at(-1)

    def f(values: Sequence[Any]) -> list[Any]:
        dtypes = [dtype_of(v) for v in eqn.invars]
        fitting = [
            v if not is_float(v) or v.dtype == d else jax.lax.convert_element_type(v, d)
            for v, d in zip(values, dtypes, strict=True)
        ]
        outs = bind(eqn, fitting)
        return [outs[i] for i in used]

    used = _used_outputs(one)
    leaves = []
    for n, (name, v) in enumerate(zip(one.site.operands, inputs, strict=True)):
        has_gradient = is_float(v) and n >= one.site.constants
        has_gradient = has_gradient and (one.moving[n] or _has_gradient(eqn, f, inputs, n))
        leaves.append(Leaf(name, v if is_key(v) else np.asarray(v), has_gradient))
    return Subject(one.site.name, f, tuple(leaves), None, f, as_traced=True)


def _has_gradient(eqn: Any, f: Callable[..., Any], values: Sequence[Any], n: int) -> bool:
    """Whether a rule gives an operand a gradient: it returns one that is not zero everywhere."""
    if eqn.params.get("symbolic_zeros"):
        # It is told what is differentiated, and may refuse. JAX cannot call it again after that.
        return False

    def floats(v: Any) -> list[Any]:
        return [out for out in f([*values[:n], v, *values[n + 1 :]]) if is_float(out)]

    draw = np.random.default_rng(0).standard_normal
    try:
        outs, pull = jax.vjp(floats, values[n])
        (gradient,) = pull([draw(out.shape).astype(out.dtype) for out in outs])
    except Exception:
        return False
    return bool(np.any(np.asarray(gradient)))


def _check_site(one: Reached, budget: Budget, seed: int) -> Report:
    subject = _subject(one)
    if not subject.differentiable:
        return Report(one.site.name, "VACUOUS", notes=("nothing here can be differentiated",))
    dys = _cotangents(one)
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
