"""Checks a rule at other sizes than those of the given arguments.

A rule may be right at the size at hand only: for an even number of elements, for a multiple of a
block, for one head, for a batch of at most one step.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from fbp.verify._deadline import Deadline
from fbp.verify.judge._examine import Examination
from fbp.verify.probe._probes import probes
from fbp.verify.probe._resized import Change, resized, trials
from fbp.verify.report._card import Hint, Report, worst
from fbp.verify.rule._cache import runs_of
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject

# One; the least even and an odd number; a block of kernels, and one more than two of them.
SIZES = (1, 2, 7, 16, 33)
_MORE = "sizes= tries others"


def at_sizes(report: Report, check_at: Callable[[int], Report], deadline: Deadline) -> Report:
    """The report, with what checks at `SIZES` find, each made by a function of the size."""
    tried, notes = [], []
    for n in SIZES:
        if not report.ok:
            break
        if not deadline.allows(f"n = {n}"):
            continue
        try:
            other = check_at(n)
        except Exception as error:
            notes.append(f"not tried at n = {n}: {first_line(error)}")
            continue
        if other.verdict in ("VACUOUS", "UNVERIFIABLE"):
            notes.append(f"nothing was compared at n = {n}: {'; '.join(other.notes[-1:])}")
            continue
        tried.append(str(n))
        if not other.ok:
            said = {r.path: r.says for r in other.leaves if r.verdict not in ("OK", "CONVENTION")}
            report = _with(report, other.verdict, said, f"at n = {n}")
            report = dataclasses.replace(report, hints=(*report.hints, *other.hints))
    if deadline.left_out and deadline.said() not in report.notes:
        notes.append(deadline.said())
    notes.append(f"sizes tried: those given, and n = {', '.join(tried) or 'none'}")
    return dataclasses.replace(report, notes=(*report.notes, *notes))


def beside(
    report: Report, runs: Runs, reference: Subject | None, seed: int, run: bool = True
) -> Report:
    """The report, with what is found one size below and above one that all arrays have.

    What the function or its rule do not take is left out: only a wrong gradient counts.

    Args:
      report: that of a rule that is right as given.
      runs: its programs.
      reference: the function that is differentiated in its place, if any.
      seed: the seed of the random draws.
      run: whether to try any; else a note says that none were.
    """
    # Kernels have blocks, differences and loops cost much, and loops may not end elsewhere.
    run = run and runs.by == "reverse" and not (runs.has_kernels or runs.iterates)
    tried: list[str] = []
    for change, same in trials(runs, reference) if run else ():
        where = " and ".join(f"{size} for {n}" for n, size in change.items())
        wrong = {} if same else _wrong_at(runs.subject, reference, change, seed)
        if wrong is not None:
            tried.append(where)
        if wrong and report.ok:
            report = _with(report, "WRONG", wrong, f"with {where}")
    said = ", ".join(["those given", *tried])
    return dataclasses.replace(report, notes=(*report.notes, f"sizes tried: {said}; {_MORE}"))


def _wrong_at(
    subject: Subject, reference: Subject | None, change: Change, seed: int
) -> dict[str, str] | None:
    """What is wrong with each gradient at other sizes; None if nothing could be compared."""
    try:
        other = resized(subject, change)
        ref = None if reference is None else resized(reference, change)
        runs = runs_of(other, ref).given(other)
        rng = np.random.default_rng(seed)
        examination = Examination(runs, rng)
        examination.run(itertools.islice(probes(runs, rng, None, True), 2))
    except Exception:
        return None  # it is not for these sizes
    findings = examination.findings
    if not examination.compared or any(f.verdict == "STRUCTURE" for f in findings):
        return None  # the rule's forward is not the function there: which of them is meant?
    wrong = [f for f in findings if f.verdict == "WRONG" and f.leaf is not None]
    return {subject.leaves[runs.diff[f.leaf or 0]].path: f.says for f in reversed(wrong)}


def _with(report: Report, verdict: str, said: dict[str, str], where: str) -> Report:
    """The report of a rule that is right as given, with what is wrong with it elsewhere."""
    leaves = [
        dataclasses.replace(row, verdict=verdict, says=f"{where}: {said[row.path]}")
        if row.path in said
        else row
        for row in report.leaves
    ]
    hint = Hint("", "size", f"right at the sizes that were given, {verdict} {where}")
    return dataclasses.replace(
        report,
        verdict=worst([report.verdict, verdict]),
        leaves=tuple(leaves),
        hints=(hint, *report.hints),
    )
