"""`fbp.check`: checks hand-written backward rules, and explains the errors it finds."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fbp.verify._deadline import Deadline
from fbp.verify._other_sizes import at_sizes
from fbp.verify._stages import Budget as Budget
from fbp.verify._stages import examine as examine
from fbp.verify.report._card import Report
from fbp.verify.rule._domain import Domain
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.rule._subject_of import subject_of


def check(
    f: Any,
    *args: Any,
    reference: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    cotangent: Any = None,
    domain: Callable[..., Any] | Mapping[Any, Callable[..., Any]] | None = None,
    sizes: Callable[[int], tuple[Any, ...]] | None = None,
    accuracy: float = 0.0,
    budget: Budget = "default",
    seed: int = 0,
    strict: bool = False,
    seconds: float | None = None,
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
      accuracy: the relative error that an approximate rule may have, such as that of an iterative
        solver with a tolerance, or of an approximated special function: rule and reference may
        differ by that part of the leaf's largest element, in any dtype. Its row says what it used.
      budget: "fast" skips half of the probes, the variants and the search for a wrong term, a wrong
        cotangent or a wrong input. "thorough" runs all probes three more times, with new draws.
      seed: the seed of the random draws.
      strict: whether a CONVENTION counts as WRONG, and digits that rule and autodiff both lose, a
        third of all or more, as PRECISION; else a note tells of them.
      seconds: a time limit: stages that have not begun by then are left out, and a note names them;
        if probes are among them, a rule that seems right is UNVERIFIABLE. By default there is none,
        so that a verdict does not depend on the machine. On a terminal, a line shows the progress.

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
    if not isinstance(accuracy, int | float) or not 0 <= accuracy < 1:
        raise ValueError(f"check: expected an accuracy from 0 to 1, got {accuracy!r}")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"check: expected seconds above 0, got {seconds!r}")

    def subjects(*args: Any) -> tuple[Subject, Subject | None]:
        subject = subject_of(f, args, argnums)
        ref = None if reference is None else subject_of(reference, args, argnums)
        if ref is not None and len(ref.leaves) != len(subject.leaves):
            raise ValueError(f"reference of {subject.name}: expected the same arguments")
        subject = dataclasses.replace(subject, accuracy=float(accuracy))
        if domain is not None:
            subject = _with_domain(subject, domain, len(args))
        return subject, ref

    subject, ref = subjects(*args)
    with Deadline(seconds, subject.name) as deadline:
        report = examine(subject, ref, cotangent, budget, seed, strict, sizes is None, deadline)
        if report.ok and sizes is not None:

            def at_size(n: int) -> Report:
                other, ref = subjects(*sizes(n))
                return examine(other, ref, None, "fast", seed, strict, False, deadline)

            report = at_sizes(report, at_size, deadline)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


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
