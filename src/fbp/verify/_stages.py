"""The stages of a check, in order, and what is found in them."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np

from fbp.verify._deadline import Deadline
from fbp.verify._other_sizes import beside
from fbp.verify._summing_up import report_of, with_misforms
from fbp.verify.diagnose._meant import meant
from fbp.verify.judge._examine import Examination
from fbp.verify.judge._findings import Finding
from fbp.verify.judge._structure import misformed, wrong_integers
from fbp.verify.probe._kinds import kinds
from fbp.verify.probe._probes import Probe, probes
from fbp.verify.probe._second import NAME, second_derivatives
from fbp.verify.probe._transforms import BACKWARDS
from fbp.verify.probe._variants import UNDIFFERENTIABLE, Variants
from fbp.verify.program._dtypes import is_float, wide
from fbp.verify.report._card import Hint, Report
from fbp.verify.rule._cache import runs_of
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._rule import RuleError, leak
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject

Budget = Literal["fast", "default", "thorough"]
_PROBES = "further probes"


def examine(
    subject: Subject,
    reference: Subject | None = None,
    cotangent: Any = None,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
    other_sizes: bool = False,
    deadline: Deadline | None = None,
) -> Report:
    """Runs all stages of a check on a subject.

    Args:
      subject: the rule and its arguments.
      reference: the function that is differentiated in its place, if any.
      cotangent: as for `fbp.check`; so are `budget`, `seed` and `strict`.
      other_sizes: whether to try sizes beside those of the arguments.
      deadline: when to stop; the report says what was left out.
    """
    deadline = deadline or Deadline()
    stages = functools.partial(
        _stages, subject, reference, cotangent, budget, seed, strict, other_sizes, deadline
    )
    try:
        try:
            return stages()
        except (RuleError, TypeError, ValueError):
            if not subject.in_float64:
                raise
            # The working dtype is float32, and some functions need float64 disabled for it.
            with jax.enable_x64(False):
                return stages()
    except RuleError as error:
        says, shown_in = str(error), list(error.leaves)
    except Exception as error:
        says, shown_in = leak(error), []
        if not says:
            raise
    misforms = [(path, text) for path, text in misformed(subject) if path]
    said = [text for _, text in misforms[:2]] + [says]
    paths = [subject.leaves[i].path for i in subject.differentiable]
    misforms += [(paths[k], says) for k in shown_in]
    report = Report(
        subject.name, "STRUCTURE", hints=tuple(Hint("", "structure", text) for text in said)
    )
    return with_misforms(report, subject, misforms)


def _stages(
    subject: Subject,
    reference: Subject | None,
    cotangent: Any,
    budget: Budget,
    seed: int,
    strict: bool,
    other_sizes: bool,
    deadline: Deadline,
) -> Report:
    deadline.show("compiling")
    runs = runs_of(subject, reference).given(subject)
    rng = np.random.default_rng(seed)
    examination = Examination(runs, rng)
    examination.notes.extend(_declared(subject))
    dys = None if cotangent is None else _cotangents(runs, cotangent)
    fast = budget == "fast"
    # Differences cost many runs per probe.
    few = fast or runs.by == "differences"
    examination.run(deadline.each(_PROBES, probes(runs, rng, dys, few)))
    for _ in range(3 if budget == "thorough" else 0):
        examination.run(deadline.each(_PROBES, probes(runs, rng, None, False)))
    findings = list(examination.findings)
    said = list(misformed(subject))
    misforms = [(path, text) for path, text in said if path]
    examination.notes.extend(text for path, text in said if not path)
    wrong = [*(text for _, text in misforms), *wrong_integers(runs)]
    findings += [_about(examination, "STRUCTURE", text) for text in wrong]
    if runs.effects:
        text = f"the rule has a side effect in its program: {', '.join(runs.effects)}"
        findings.append(_about(examination, "STRUCTURE", text))
    if not runs.is_stable:
        text = "traced twice, the rule gives two different programs"
        leaves = runs.changing or [None]
        changing = [_about(examination, "NONDETERMINISTIC", text, k) for k in leaves]
        findings = changing + findings
    variants: dict[str, str] = {}
    if not fast and examination.compared:
        variants = _transformed(runs, examination, findings, deadline)
    lost = _lost_by_both(examination)
    if strict:
        findings = [
            dataclasses.replace(f, verdict="WRONG") if f.verdict == "CONVENTION" else f
            for f in findings
        ]
        findings += lost
    else:
        paths = [subject.leaves[i].path for i in runs.diff]
        examination.notes.extend(f"{paths[f.leaf or 0]}: {f.says} ({f.probe.name})" for f in lost)
    search = not fast and (not findings or deadline.allows("the search for a cause"))
    report = report_of(runs, examination, findings, variants, reference, search=search)
    if report.verdict == "WRONG":
        # After what explains the gradient: most that are zero are mistakes.
        told = meant(runs, examination.pairs, findings)
        report = dataclasses.replace(report, hints=(*report.hints[:1], *told, *report.hints[1:]))
    if other_sizes and report.ok:
        run = not fast and deadline.allows("other sizes")
        report = beside(report, runs, reference, seed, run=run)
    return with_misforms(_in_time(report, deadline), subject, misforms)


def _lost_by_both(examination: Examination) -> list[Finding]:
    """The gradients of which autodiff loses the digits too: no mistake of the rule alone."""
    if examination.runs.subject.in_float64:
        return []  # the working dtype is not the one that it is used in
    lost = [(k, r.both) for k, r in enumerate(examination.leaves) if r.both is not None]
    return [Finding("PRECISION", k, *both[2:], both[1], both[0]) for k, both in lost]


def _transformed(
    runs: Runs, examination: Examination, findings: list[Finding], deadline: Deadline
) -> dict[str, str]:
    """The result of each variant and of the second derivative; adds what is wrong to findings."""
    variants: dict[str, str] = {}
    found: list[tuple[str, str, int | None]] = []
    if deadline.allows("the variants"):
        records = examination.leaves
        tried = Variants.of(runs, deadline.left)
        deadline.left_out += [f"the variant {name}" for name in tried.left_out]
        outcome = tried.run(
            examination.pairs,
            [record.working for record in records],
            vanishes=any(not record.seen for record in records),
        )
        variants, found = outcome.variants, outcome.findings
    forwards = "not supported"
    if deadline.allows("the second derivative"):
        forwards, lost = second_derivatives(
            runs, examination.pairs, [record.wiggle for record in examination.leaves]
        )
        variants[NAME] = forwards
        # Where a gradient is not finite, its derivative cannot be.
        infinite = {f.leaf for f in findings if f.verdict == "RANGE"}
        found = [*found, *(("VARIANT", text, k) for k, text in lost if k not in infinite)]
    # The variants are run on ordinary input. The derivative of a gradient that is wrong, or not
    # finite there, is so too, and adds no information.
    lost_there = any(f.verdict == "RANGE" and f.probe.ordinary for f in findings)
    is_wrong = lost_there or any(f.verdict == "WRONG" for f in findings)
    if is_wrong:
        variants = {n: w for n, w in variants.items() if not n.startswith("the gradient")}
    if not forwards.startswith("not supported"):
        # It was differentiated: what jax cannot do backwards is no fault of the rule.
        found = [finding for finding in found if UNDIFFERENTIABLE not in finding[1]]
    if forwards == "same":
        # In float64 it is right, so what differs in the working dtype, backwards, is rounding.
        rounded = [n for n, w in variants.items() if n.startswith(BACKWARDS) and _differs(w)]
        variants |= dict.fromkeys(rounded, "same but for rounding")
        found = [f for f in found if not any(f[1].startswith(f"under {n} ") for n in rounded)]
    for v, text, k in found:
        if not (is_wrong and v == "VARIANT"):
            # What belongs to no one gradient is of the only one that there is.
            is_alone = v == "VARIANT" and k is None and len(runs.diff) == 1
            findings.append(_about(examination, v, text, 0 if is_alone else k))
    return variants


def _differs(outcome: str) -> bool:
    return outcome.startswith("differs") and not outcome.endswith("inf")


def _declared(subject: Subject) -> list[str]:
    """Notes on what was declared, and on what all inputs that are tried have in common."""
    notes = []
    if subject.accuracy:
        accuracy = f"accuracy={subject.accuracy:g}"
        notes.append(f"{accuracy}: so much of a gradient's size may rule and reference differ by")
    if subject.domain is not None:
        notes.append("all inputs that were tried are in the domain that was declared")
    for i, kind in kinds(subject.values).items():
        if kind != "ascending":
            path = subject.leaves[i].path
            notes.append(f"{path} is {kind} as given: no other {path} was tried")
    return notes


def _in_time(report: Report, deadline: Deadline) -> Report:
    """The report, with what the deadline left out; without all probes nothing is known to be OK."""
    if not deadline.left_out:
        return report
    verdict = report.verdict
    if report.ok and _PROBES in deadline.left_out:
        verdict = "UNVERIFIABLE"
    return dataclasses.replace(report, verdict=verdict, notes=(deadline.said(), *report.notes))


# What a finding about the rule itself is said of, when no probe could be compared.
_NOWHERE = Probe("at no input", [], []), Pair([], [], [], [], np.inf)


def _about(examination: Examination, verdict: str, text: str, leaf: int | None = None) -> Finding:
    """A finding about the rule itself, which shows in every probe."""
    probe, pair = examination.pairs[0] if examination.pairs else _NOWHERE
    return Finding(verdict, leaf, probe, pair, text)


def _cotangents(runs: Runs, cotangent: Any) -> list[np.ndarray]:
    leaves = jax.tree.leaves(cotangent)
    # A Python integer counts as a float; an array of integers is no cotangent.
    numbers = [np.asarray(d, np.float64) if isinstance(d, int) else np.asarray(d) for d in leaves]
    dys = [wide(d) for d in numbers if is_float(d)]
    got, wanted = [d.shape for d in dys], [a.shape for a in runs.out_avals]
    if got != wanted:
        raise ValueError(f"cotangent of {runs.subject.name}: expected shapes {wanted}, got {got}")
    return dys
