"""`fbp.check`: is a hand-written backward rule right, and if not, what is wrong with it?"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from fbp.verify._card import Hint, LeafRow, Report, worst
from fbp.verify._diagnose import diagnose
from fbp.verify._examine import Examination, Finding, LeafRecord
from fbp.verify._kinks import thresholds
from fbp.verify._power import smallest_caught
from fbp.verify._probes import probes
from fbp.verify._repro import is_importable, reproduction
from fbp.verify._runs import RuleError, Runs, fingerprint, first_line, is_float, leak
from fbp.verify._structure import misformed
from fbp.verify._subject import Subject, subject_of
from fbp.verify._variants import Variants

Budget = Literal["fast", "default", "thorough"]


def check(
    f: Any,
    *args: Any,
    reference: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    cotangent: Any = None,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
) -> Report:
    """Checks the hand-written backward rules in a function against rule-free float64 autodiff.

    The reference is autodiff of the same function with every custom rule taken out of its program,
    in float64 and element by element; so it needs no finite differences and no tolerance to tune.
    Where autodiff cannot go, differences of the function stand in, with an error bar.

    * Algebra: the rule itself in float64, on ordinary and on nasty input (zeros, ties, rows of
      different size, thresholds mined from the program, repeated and negative integers, masks) and
      several cotangents. A wrong term is many orders of magnitude above rounding there, for which
      4e-11 of a gradient's largest element is allowed.
    * Range: is it finite in the working dtype wherever autodiff is?
    * Precision: does it err more than 16 times what autodiff does in the working dtype?
    * Variants: is it the same under jit, vmap, scan, cond, remat, by one argument alone, with two
      calls interleaved, and differentiated again?
    * Power: what would have been caught. A check that could not have failed says VACUOUS.

    Verdicts: OK; CONVENTION, another subgradient at a kink; and those that are not `ok`: WRONG,
    STRUCTURE (not the form of a gradient, or it raises), NONDETERMINISTIC, VARIANT, RANGE,
    PRECISION, VACUOUS, UNVERIFIABLE.

    Args:
      f: a `custom_vjp` or `custom_jvp` function, any function with such rules inside, or a `Layer`
        (args: params, x and perhaps a key), a `Loss` (params, y, target) or an `Objective`.
      *args: its arguments: trees of arrays, integers, keys, None. Their values are ordinary input.
      reference: a function of the same arguments to use instead of f's own primal.
      argnums: which arguments to differentiate; all that hold floats by default.
      cotangent: the cotangents of the first probe, as f's output; random by default.
      budget: "fast" leaves out half of the probes, the variants and the search for a wrong term.
        "thorough" runs all probes three times more, on other draws.
      seed: of what is drawn.
      strict: whether a CONVENTION counts as WRONG.

    Raises:
      TypeError: f is not a function, a layer, a loss or an objective.
      ValueError: nothing can be differentiated; f raises or gives no floats; the reference gives
        something else than f.
    """
    started = time.perf_counter()
    if budget not in ("fast", "default", "thorough"):
        raise ValueError(f"check: expected budget fast, default or thorough, got {budget!r}")
    subject = subject_of(f, args, argnums)
    ref = None if reference is None else subject_of(reference, args, argnums)
    if ref is not None and len(ref.leaves) != len(subject.leaves):
        raise ValueError(f"reference of {subject.name}: expected the same arguments")
    report = examine(subject, ref, cotangent, budget, seed, strict)
    return _replace(report, seconds=time.perf_counter() - started)


def examine(
    subject: Subject,
    reference: Subject | None = None,
    cotangent: Any = None,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
) -> Report:
    """All stages of a check."""
    try:
        return _examine(subject, reference, cotangent, budget, seed, strict)
    except RuleError as error:
        says = error.says
    except Exception as error:
        says = leak(error)
        if not says:
            raise
    misforms = [(path, text) for path, text in misformed(subject) if path]
    said = [text for _, text in misforms[:2]] + [says]
    report = Report(
        subject.name, "STRUCTURE", hints=tuple(Hint("", "structure", text) for text in said)
    )
    return _with_misforms(report, subject, misforms)


def _examine(
    subject: Subject,
    reference: Subject | None,
    cotangent: Any,
    budget: Budget,
    seed: int,
    strict: bool,
) -> Report:
    runs = runs_of(subject, reference)
    runs = runs.given(subject)
    rng = np.random.default_rng(seed)
    points = thresholds(runs.program)
    examination = Examination(runs, rng, points)
    dys = None if cotangent is None else _cotangents(runs, cotangent)
    fast = budget == "fast"
    # Differences cost many runs a probe.
    examination.run(probes(runs, rng, points, dys, fast or runs.by == "differences"))
    if budget == "thorough":
        for _ in range(3):
            examination.run(probes(runs, rng, points, None, False))
    findings = list(examination.findings)
    said = list(misformed(subject))
    misforms = [(path, text) for path, text in said if path]
    examination.notes += [text for path, text in said if not path]
    findings += [_about(examination, "STRUCTURE", text) for _, text in misforms]
    if runs.effects:
        text = f"the rule has a side effect in its program: {', '.join(runs.effects)}"
        findings.append(_about(examination, "STRUCTURE", text))
    variants: dict[str, str] = {}
    if runs.unstable:
        findings.insert(0, _about(examination, "NONDETERMINISTIC", runs.unstable))
    if not fast and examination.compared:
        outcome = Variants.of(runs).run(examination)
        variants = outcome.variants
        if any(f.verdict == "WRONG" for f in findings):
            # The derivative of a wrong gradient is wrong too, and says nothing more.
            variants = {n: w for n, w in variants.items() if not n.startswith("the gradient")}
        is_wrong = any(f.verdict == "WRONG" for f in findings)
        for v, text, k in outcome.findings:
            if not (is_wrong and v == "VARIANT"):
                findings.append(_replace(_about(examination, v, text), leaf=k))
    if strict:
        findings = [
            _replace(f, verdict="WRONG") if f.verdict == "CONVENTION" else f for f in findings
        ]
    report = _report(runs, examination, findings, variants, reference, budget)
    return _with_misforms(report, subject, misforms)


def _report(
    runs: Runs,
    examination: Examination,
    findings: list[Finding],
    variants: dict[str, str],
    reference: Subject | None,
    budget: Budget,
) -> Report:
    subject = runs.subject
    rows = [
        _row(runs, record, k, [f for f in findings if f.leaf == k])
        for k, record in enumerate(examination.leaves)
    ]
    notes = list(dict.fromkeys([*runs.notes, *examination.notes]))
    verdict = worst([f.verdict for f in findings])
    if verdict in ("OK", "CONVENTION"):
        verdict, why = _vacuous(runs, examination, verdict, reference)
        notes += why
    if runs.eps > 1e-12:
        held = ", ".join(f"{name} in {dtype}" for name, dtype in runs.stuck.items())
        notes.append(
            f"float64 was not possible ({held}): verified to {runs.eps ** (2 / 3):.0e} only"
        )
    hints: list[Hint] = []
    if verdict not in ("OK", "VACUOUS", "UNVERIFIABLE"):
        try:
            hints = diagnose(runs, examination, findings, search=budget != "fast")
        except Exception as error:  # a verdict is not lost for want of an explanation
            notes.append(f"no explanation: {type(error).__name__}: {first_line(error)}")
    wrong = next((f for f in findings if f.leaf is not None and f.verdict == verdict), None)
    reproduce = None
    if wrong is not None and wrong.verdict == "WRONG" and is_importable(runs):
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


def _with_misforms(report: Report, subject: Subject, misforms: list[tuple[str, str]]) -> Report:
    """The report with the gradients that are not of the right form marked."""
    said = dict(misforms)
    rows = [
        _replace(row, verdict="STRUCTURE", says=said[row.path]) if row.path in said else row
        for row in report.leaves
    ]
    named = {row.path for row in rows}
    for leaf in subject.leaves:
        if leaf.path in said and leaf.path not in named:
            shape = tuple(leaf.value.shape)
            rows.append(
                LeafRow(
                    leaf.path,
                    str(leaf.value.dtype),
                    shape,
                    "STRUCTURE",
                    0,
                    0,
                    0,
                    0,
                    {},
                    said[leaf.path],
                )
            )
    return _replace(report, leaves=tuple(rows))


def _row(runs: Runs, record: LeafRecord, k: int, findings: list[Finding]) -> LeafRow:
    leaf = runs.subject.leaves[runs.diff[k]]
    verdict = worst(f.verdict for f in findings)
    first = next((f for f in findings if f.verdict == verdict), None)
    if verdict == "OK" and not record.compared:
        verdict, says = ("UNVERIFIABLE", "not compared") if leaf.value.size else ("OK", "empty")
    elif verdict == "OK" and not record.seen:
        says = "zero everywhere"
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
    """Whether the check could have failed at all."""
    if not runs.rules and reference is None:
        return "VACUOUS", ["no custom rule is reached: autodiff was compared with itself"]
    if not examination.compared:
        return "UNVERIFIABLE", ["the function is finite at none of the inputs that were tried"]
    missed = [
        runs.subject.leaves[i].path
        for i, record in zip(runs.diff, examination.leaves, strict=True)
        if not record.compared and runs.subject.leaves[i].value.size
    ]
    if missed:
        return "UNVERIFIABLE", [f"not finite at any input, so not compared: {', '.join(missed)}"]
    if not any(record.seen for record in examination.leaves):
        return "VACUOUS", ["every gradient is zero at every input that was tried"]
    return verdict, []


def _reference_name(runs: Runs, reference: Subject | None) -> str:
    by = {"reverse": "autodiff", "forward": "forward-mode autodiff", "differences": "differences"}
    of = f"{reference.name}" if reference else "the function without its rules"
    return f"{'float64' if runs.eps < 1e-12 else 'wide'} {by[runs.by]} of {of}"


def _about(examination: Examination, verdict: str, text: str) -> Finding:
    probe, pair = examination.pairs[0] if examination.pairs else (None, None)
    return Finding(verdict, None, probe, pair, text)  # type: ignore[arg-type]


def _cotangents(runs: Runs, cotangent: Any) -> list[np.ndarray]:
    dys = [
        d.astype(np.complex128 if d.dtype.kind == "c" else np.float64)
        for d in map(np.asarray, jax.tree.leaves(cotangent))
        if is_float(d)
    ]
    got, wanted = [d.shape for d in dys], [a.shape for a in runs.out_avals]
    if got != wanted:
        raise ValueError(f"cotangent of {runs.subject.name}: expected shapes {wanted}, got {got}")
    return dys


def _replace(value: Any, **changes: Any) -> Any:
    return dataclasses.replace(value, **changes)


def runs_of(subject: Subject, reference: Subject | None) -> Runs:
    """The compiled programs of a subject: those of the last few dozen are kept."""
    key = _key(subject), None if reference is None else _key(reference)
    if None in key[:1] or (reference is not None and key[1] is None):
        return Runs(subject, reference.f if reference else None)
    return _cached(_Keyed(key, subject, reference))


class _Keyed:
    """A subject that equals another if they are the same function of the same shapes."""

    def __init__(self, key: Any, subject: Subject, reference: Subject | None) -> None:
        self.key, self.subject, self.reference = key, subject, reference

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key


def _key(subject: Subject) -> Any:
    rule = fingerprint(subject)
    if subject.identity is None or rule is None:
        return None
    shapes = tuple(
        (x.path, str(x.value.dtype), x.value.shape, x.differentiable) for x in subject.leaves
    )
    return subject.identity, shapes, rule


@functools.lru_cache(maxsize=48)
def _cached(keyed: _Keyed) -> Runs:
    return Runs(keyed.subject, keyed.reference.f if keyed.reference else None)
