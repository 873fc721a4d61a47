"""Turns findings into a report: rows, one verdict, the errors it would catch, explanations."""

import dataclasses
import functools

import numpy as np

from fbp.verify.diagnose._diagnose import diagnose
from fbp.verify.diagnose._repro import is_importable, reproduction
from fbp.verify.judge._examine import Examination
from fbp.verify.judge._findings import Finding, LeafRecord
from fbp.verify.judge._power import smallest_caught
from fbp.verify.report._card import Hint, LeafRow, Report, worst
from fbp.verify.rule._derived import holds_fixed
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject


def report_of(
    runs: Runs,
    examination: Examination,
    findings: list[Finding],
    variants: dict[str, str],
    reference: Subject | None,
    search: bool,
) -> Report:
    subject = runs.subject
    rows = [
        _row(runs, record, k, [f for f in findings if f.leaf == k])
        for k, record in enumerate(examination.leaves)
    ]
    notes = list(dict.fromkeys([*runs.notes, *examination.notes]))
    notes += _left_out(runs, examination)
    verdict = worst([f.verdict for f in findings])
    if verdict in ("OK", "CONVENTION"):
        verdict, why = _vacuous(runs, examination, verdict, reference)
        notes = [*why, *notes]  # the reason of the verdict first
    if runs.eps > 1e-12:
        held = ", ".join(f"{name} in {dtype}" for name, dtype in runs.stuck.items())
        notes.append(
            f"float64 was not possible ({held}): verified to {runs.eps ** (2 / 3):.0e} only"
        )
    hints: list[Hint] = []
    if verdict not in ("OK", "VACUOUS", "UNVERIFIABLE"):
        try:
            hints = diagnose(runs, examination.pairs, findings, search=search)
        except Exception as error:  # the verdict stands even if explaining it fails
            notes.append(f"no explanation: {type(error).__name__}: {first_line(error)}")
    wrong = next((f for f in findings if f.leaf is not None and f.verdict == verdict), None)
    reproduce = None
    if wrong is not None and wrong.verdict in ("WRONG", "RANGE") and is_importable(runs):
        reproduce = functools.partial(reproduction, runs, wrong)
    return Report(
        name=subject.name,
        verdict=verdict,
        leaves=tuple(rows),
        hints=tuple(hints),
        notes=tuple(dict.fromkeys(notes)),
        variants=variants,
        reference=_reference_name(runs, reference),
        rules=tuple(runs.rules),
        probes=examination.compared,
        reproduce=reproduce,
    )


def with_misforms(report: Report, subject: Subject, misforms: list[tuple[str, str]]) -> Report:
    """The report with verdict STRUCTURE on the gradients of the wrong form."""
    said = dict(misforms)
    rows = [
        row
        if row.path not in said
        else dataclasses.replace(row, verdict="STRUCTURE", says=said[row.path])
        for row in report.leaves
    ]
    named = {row.path for row in rows}
    for leaf in subject.leaves:
        if leaf.path in said and leaf.path not in named:
            a = leaf.value
            rows.append(
                LeafRow(leaf.path, str(a.dtype), a.shape, "STRUCTURE", says=said[leaf.path])
            )
    return dataclasses.replace(report, leaves=tuple(rows))


def _row(runs: Runs, record: LeafRecord, k: int, findings: list[Finding]) -> LeafRow:
    leaf = runs.subject.leaves[runs.diff[k]]
    verdict = worst(f.verdict for f in findings)
    first = next((f for f in findings if f.verdict == verdict), None)
    if verdict == "OK" and not record.compared:
        verdict, says = ("UNVERIFIABLE", "not compared") if leaf.value.size else ("OK", "empty")
    elif verdict == "OK" and not record.seen:
        says = "zero everywhere"
    elif verdict == "OK" and record.leeway:
        says = f"errs by {record.leeway:.1e}, within accuracy={runs.subject.accuracy:g}"
    else:
        says = f"{first.says} ({first.probe.name})" if first and verdict != "OK" else ""
        if verdict == "VARIANT" and first:
            says = first.says
    return LeafRow(
        path=leaf.path,
        dtype=str(leaf.value.dtype),
        shape=tuple(leaf.value.shape),
        verdict=verdict,
        error=record.error,
        excess=record.excess,
        units=record.working,
        control=record.control,
        catches=smallest_caught(record),
        says=says,
    )


def _vacuous(
    runs: Runs, examination: Examination, verdict: str, reference: Subject | None
) -> tuple[str, list[str]]:
    """The verdict and notes, changed to VACUOUS or UNVERIFIABLE if nothing was really checked."""
    if not runs.rules and reference is None:
        return "VACUOUS", ["no custom rule is reached: autodiff was compared with itself"]
    if not examination.compared:
        return "UNVERIFIABLE", ["the function is finite at none of the inputs that were tried"]
    if not examination.is_finite_as_given:
        return "UNVERIFIABLE", ["the function is not finite at the arguments that were given"]
    missed = [
        runs.subject.leaves[i].path
        for i, record in zip(runs.diff, examination.leaves, strict=True)
        if not record.compared and runs.subject.leaves[i].value.size
    ]
    if missed:
        return "UNVERIFIABLE", [f"not finite at any input, so not compared: {', '.join(missed)}"]
    if not any(record.seen for record in examination.leaves):
        says = "every gradient is zero at every input that was tried"
        held = "; a stop_gradient in the function keeps it so" if holds_fixed(runs) else ""
        return "VACUOUS", [says + held]
    return verdict, []


def _left_out(runs: Runs, examination: Examination) -> list[str]:
    """Notes on leaves that were compared only in part, and why."""
    notes = []
    why = {"reverse": "autodiff is not finite at the others"}.get(runs.by, "by differences")
    if runs.by == "forward":
        why = "one by one; all of them along random directions"
    for i, record in zip(runs.diff, examination.leaves, strict=True):
        leaf = runs.subject.leaves[i]
        seen, size = int(np.sum(record.covered)), leaf.value.size
        if record.compared and seen < size:
            notes.append(f"{leaf.path}: {seen} of {size} elements were compared ({why})")
    return notes


def _reference_name(runs: Runs, reference: Subject | None) -> str:
    by = {"reverse": "autodiff", "forward": "forward-mode autodiff", "differences": "differences"}
    of = f"{reference.name}" if reference else "the function without its rules"
    return f"{'float64' if runs.eps < 1e-12 else 'wide'} {by[runs.by]} of {of}"
