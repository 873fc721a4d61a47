"""`fbp.check`: checks hand-written backward rules, and explains the errors it finds."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from fbp.verify._other_sizes import at_sizes, beside
from fbp.verify._summing_up import report_of, with_misforms
from fbp.verify.judge._examine import Examination
from fbp.verify.judge._findings import Finding
from fbp.verify.judge._structure import misformed, wrong_integers
from fbp.verify.probe._kinds import kinds
from fbp.verify.probe._probes import Probe, probes
from fbp.verify.probe._second import NAME, second_derivatives
from fbp.verify.probe._variants import UNDIFFERENTIABLE, Variants
from fbp.verify.program._dtypes import is_float, wide
from fbp.verify.report._card import Hint, Report
from fbp.verify.rule._cache import runs_of
from fbp.verify.rule._domain import Domain
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._rule import RuleError, first_line, leak
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject
from fbp.verify.rule._subject_of import subject_of

Budget = Literal["fast", "default", "thorough"]


def check(
    f: Any,
    *args: Any,
    reference: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    cotangent: Any = None,
    domain: Callable[..., Any] | Mapping[Any, Callable[..., Any]] | None = None,
    sizes: Callable[[int], tuple[Any, ...]] | None = None,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
) -> Report:
    """Checks the hand-written backward rules in a function against rule-free float64 autodiff.

    The reference is autodiff of the same function with every custom rule removed from its program,
    in float64, compared element by element: without finite differences, and with tolerances that
    are derived from the rounding, not set. Only functions that autodiff cannot differentiate are
    compared with finite differences, which have an error bound.

    * Algebra: the rule in float64, with several cotangents, on ordinary inputs and on edge cases
      (zeros, ties, rows of different magnitude, constants that the program compares with, repeated
      and negative integers, masks). For rounding, 4e-11 of a gradient's largest element is
      allowed; the error of a wrong term is many orders of magnitude larger.
    * Range: is the gradient finite in the working dtype wherever autodiff's is?
    * Precision: is its error in the working dtype more than 16 times autodiff's, beyond a few units
      of rounding?
    * Variants: is it the same under jit, vmap, scan, cond and remat, with respect to one argument
      alone, with two calls interleaved, and when differentiated again?
    * Power: which errors would have been caught? A check that could not have failed is VACUOUS.

    Verdicts: OK; CONVENTION, another subgradient at a kink; and those that are not `ok`: WRONG,
    STRUCTURE (the gradient has the wrong form, or the rule raises), NONDETERMINISTIC, VARIANT,
    RANGE, PRECISION, VACUOUS, UNVERIFIABLE.

    Args:
      f: a `custom_vjp` or `custom_jvp` function, any function with such rules inside, or a `Layer`
        (args: params, x and an optional key), a `Loss` (params, y, target) or an `Objective`.
      *args: its arguments: trees of arrays, integers, keys, None. Their values count as ordinary
        input.
      reference: a function of the same arguments that is differentiated in place of f. It returns
        the same values: for a straight-through estimator f of g, g(x) + stop_gradient(f(x) - g(x)).
      argnums: which arguments to differentiate; by default all that hold floats.
      cotangent: the cotangents of the first probe, a tree like f's output; random by default.
      domain: what the inputs may be: a function of the arguments that returns them moved into the
        domain (a tuple, if there are several), or whether they are in it, as in
        `lambda low, x: low < x`. Or such functions by the names of arguments, as in
        `{"p": domains.simplex(), ("low", "x"): domains.ascending_arguments()}`;
        `fbp.verify.domains` has ready ones. Every input that is tried is in it, those of
        differences and limits too. The gradients are still those of unconstrained arguments.
      sizes: a function of a size n that makes a tuple of arguments, as in
        `lambda n: (x(n, 3), w(3))`. The rule is checked at n = 1, 2, 7, 16 and 33 too, since it may
        be right at the given size only. Without it, axes of one size that all arrays have are tried
        one longer and one shorter, where the function runs (not with budget "fast").
      budget: "fast" skips half of the probes, the variants and the search for a wrong term, a wrong
        cotangent or a wrong input. "thorough" runs all probes three more times, with new draws.
      seed: the seed of the random draws.
      strict: whether a CONVENTION counts as WRONG.

    Raises:
      TypeError: f is not a function, a layer, a loss or an objective; another argument has the
        wrong type.
      ValueError: nothing can be differentiated; f raises or returns no floats; the reference raises
        or its outputs have other shapes than f's; the arguments are not in the domain; another
        argument has an invalid value.
    """
    started = time.perf_counter()
    if budget not in ("fast", "default", "thorough"):
        raise ValueError(f"check: expected budget fast, default or thorough, got {budget!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"check: expected a seed of 0 or more, got {seed!r}")
    if reference is not None and not callable(reference):
        raise TypeError(f"check: expected a function for reference, got {type(reference).__name__}")
    if sizes is not None and not callable(sizes):
        raise TypeError(f"check: expected a function for sizes, got {type(sizes).__name__}")

    def subjects(*args: Any) -> tuple[Subject, Subject | None]:
        subject = subject_of(f, args, argnums)
        ref = None if reference is None else subject_of(reference, args, argnums)
        if ref is not None and len(ref.leaves) != len(subject.leaves):
            raise ValueError(f"reference of {subject.name}: expected the same arguments")
        if domain is not None:
            subject = _with_domain(subject, domain, len(args))
        return subject, ref

    subject, ref = subjects(*args)
    report = examine(subject, ref, cotangent, budget, seed, strict, other_sizes=sizes is None)
    if report.ok and sizes is not None:
        report = at_sizes(
            report, lambda n: examine(*subjects(*sizes(n)), None, "fast", seed, strict)
        )
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def examine(
    subject: Subject,
    reference: Subject | None = None,
    cotangent: Any = None,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
    other_sizes: bool = False,
) -> Report:
    """Runs all stages of a check on a subject; if `other_sizes`, tries some beside its own."""
    stages = functools.partial(
        _stages, subject, reference, cotangent, budget, seed, strict, other_sizes
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
) -> Report:
    runs = runs_of(subject, reference).given(subject)
    rng = np.random.default_rng(seed)
    examination = Examination(runs, rng)
    if subject.domain is not None:
        examination.notes.append("all inputs that were tried are in the domain that was declared")
    for i, kind in kinds(subject.values).items():
        if kind != "ascending":
            path = subject.leaves[i].path
            examination.notes.append(f"{path} is {kind} as given: no other {path} was tried")
    dys = None if cotangent is None else _cotangents(runs, cotangent)
    fast = budget == "fast"
    # Differences cost many runs per probe.
    examination.run(probes(runs, rng, dys, fast or runs.by == "differences"))
    if budget == "thorough":
        for _ in range(3):
            examination.run(probes(runs, rng, None, False))
    findings = list(examination.findings)
    said = list(misformed(subject))
    misforms = [(path, text) for path, text in said if path]
    examination.notes.extend(text for path, text in said if not path)
    wrong = [*(text for _, text in misforms), *wrong_integers(runs)]
    findings += [_about(examination, "STRUCTURE", text) for text in wrong]
    if runs.effects:
        text = f"the rule has a side effect in its program: {', '.join(runs.effects)}"
        findings.append(_about(examination, "STRUCTURE", text))
    variants: dict[str, str] = {}
    if not runs.is_stable:
        text = "traced twice, the rule gives two different programs"
        leaves = runs.changing or [None]
        changing = [_about(examination, "NONDETERMINISTIC", text, k) for k in leaves]
        findings = changing + findings
    if not fast and examination.compared:
        records = examination.leaves
        outcome = Variants.of(runs).run(
            examination.pairs,
            [record.working for record in records],
            vanishes=any(not record.seen for record in records),
        )
        variants = outcome.variants
        forwards, lost = second_derivatives(runs, examination.pairs)
        variants[NAME] = forwards
        findings_of_second = [("VARIANT", text, k) for k, text in lost]
        is_wrong = any(f.verdict == "WRONG" for f in findings)
        if is_wrong:
            # The derivative of a wrong gradient is wrong too, and adds no information.
            variants = {n: w for n, w in variants.items() if not n.startswith("the gradient")}
        found = [*outcome.findings, *findings_of_second]
        if not forwards.startswith("not supported"):
            # It was differentiated: what jax cannot do backwards is no fault of the rule.
            found = [finding for finding in found if UNDIFFERENTIABLE not in finding[1]]
        for v, text, k in found:
            if not (is_wrong and v == "VARIANT"):
                findings.append(_about(examination, v, text, k))
    if strict:
        findings = [
            dataclasses.replace(f, verdict="WRONG") if f.verdict == "CONVENTION" else f
            for f in findings
        ]
    report = report_of(runs, examination, findings, variants, reference, search=not fast)
    if other_sizes and report.ok:
        report = beside(report, runs, reference, seed, run=not fast)
    return with_misforms(report, subject, misforms)


def _with_domain(subject: Subject, declared: Any, arguments: int) -> Subject:
    """The subject with what its user declared of its arguments."""

    def given(values: Sequence[Any]) -> tuple[Any, ...]:
        # The first argument of a loss without params is not the user's.
        return subject.arguments(values)[-arguments:]

    domain = Domain([leaf.path for leaf in subject.leaves], given, declared)
    try:
        outside = domain.moved(subject.values)
    except Exception as error:
        text = f"domain of {subject.name}: on these arguments, {first_line(error)}"
        raise ValueError(text) from error
    if outside is not None:
        path = subject.leaves[outside].path
        raise ValueError(
            f"{subject.name}: expected arguments in their domain, got {path} outside of it"
        )
    return dataclasses.replace(subject, domain=domain)


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
