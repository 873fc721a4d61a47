"""`fbp.check`: whether it finds a bug, its leaf and its term, in its first hint or the next two."""

import re
from collections.abc import Callable
from typing import Any

from comparison._case import Case
from comparison._record import DETECTED, OTHER, PASSED, UNVERIFIABLE
from comparison._said import Said


def by_fbp(budget: str, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    import fbp

    report = fbp.check(f, *args, reference=case.reference, budget=budget)
    said: dict[str, Any] = {"verdict": report.verdict}
    if case.bug is None:
        outcome = PASSED if report.ok else DETECTED
        if report.verdict == UNVERIFIABLE.upper():
            outcome = UNVERIFIABLE
        elif not report.ok:
            said["message"] = str(report)
        return outcome, said
    if report.verdict in case.bug.verdicts:
        outcome = DETECTED
    elif report.verdict == UNVERIFIABLE.upper():
        outcome = UNVERIFIABLE
    else:
        outcome = PASSED if report.ok else OTHER
    wrong = {str(row.path) for row in report.leaves if row.verdict != "OK"}
    if case.bug.leaves:
        said["leaf_named"] = wrong == set(case.bug.leaves)
    hints = list(report.hints)[:3]
    named = [any(names(hint, right) for right in case.bug.right) for hint in hints]
    said["term_named"], said["first_named"] = any(named), named[:1] == [True]
    told = "; ".join(f"{hint.leaf} {hint.kind}: {hint.text}" for hint in hints)
    said["message"] = f"leaves {sorted(wrong)}; {told}"
    return outcome, said


def names(hint: Any, right: str) -> bool:
    """Whether a hint is of the right kind, and says what "kind:regex" asks of its text."""
    kind, _, text = right.partition(":")
    return hint.kind == kind and re.search(text, hint.text) is not None
