"""Checks that a rule gives the same gradients under jax's transformations as without them."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.probe._probes import Probe
from fbp.verify.probe._second import of_derivative, undifferentiable
from fbp.verify.probe._transforms import Transform, transforms
from fbp.verify.program._compiled import quick
from fbp.verify.program._numbers import largest
from fbp.verify.program._program import evaluate, trace
from fbp.verify.rule._callbacks import quiet_callbacks, said_by_user
from fbp.verify.rule._derived import holds_fixed, once
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._rule import KEEPS, RuleError, first_line, foreign_outputs, leak
from fbp.verify.rule._runs import Runs

UNDIFFERENTIABLE = "its gradient cannot be differentiated"


class Outcome(NamedTuple):
    """The result of each variant in words, and what is wrong as (verdict, text, leaf)."""

    variants: dict[str, str]
    findings: list[tuple[str, str, int | None]]


class Variants:
    """All variants of a rule, compiled as one program."""

    def __init__(self, runs: Runs, left: Callable[[], float]) -> None:
        self.runs = runs
        self.unsupported: dict[str, str] = {}
        self.left_out: list[str] = []
        self.findings: list[tuple[str, str, int | None]] = []
        values = runs.narrow(runs.subject.values)
        dys = [jnp.zeros(a.shape, a.dtype) for a in runs.out_avals]
        args = (values, values, dys, dys)
        flat = jax.tree.leaves(args)
        alone = trace(functools.partial(_alone, runs), *args)
        if (foreign := foreign_outputs(alone)) is not None:
            raise RuleError(KEEPS, sorted({n % len(runs.diff) for n in foreign}))
        gradients = [np.zeros(a.shape, a.dtype) for a in alone.out_avals]
        ga, gb = gradients[: len(runs.diff)], gradients[len(runs.diff) :]
        traced: list[tuple[Transform, ClosedJaxpr]] = []
        kept: list[tuple[str, list[int | None]]] = []
        longest = 0.0
        for transform in transforms(runs):
            # A variant is about as large as the program that was compiled before.
            if longest + (1 + len(traced)) * runs.compiling > left():
                self.left_out.append(transform.name)
                continue
            started = time.perf_counter()
            try:
                program = trace(transform.run, *args, ga, gb)
            except Exception as error:
                self._cannot(transform, error)
                continue
            finally:
                longest = max(longest, time.perf_counter() - started)
            foreign = foreign_outputs(program)
            if foreign is None:
                traced.append((transform, program))
            else:
                leaves = _known({(transform.owners * 2)[i] for i in foreign})
                kept.append((f"{KEEPS} (under {transform.name})", leaves))
        if kept:
            # Some transformations mix gradients; the one with the fewest names the affected leaves.
            text, leaves = min(kept, key=lambda found: len(found[1]))
            self.findings += [("STRUCTURE", text, k) for k in leaves]
        try:
            self.run_all = _all_of(alone, traced, flat)
        except Exception:
            # One of them does not compile: try each alone to find it.
            compiled = []
            for transform, program in traced:
                try:
                    _all_of(alone, [(transform, program)], flat)
                    compiled.append((transform, program))
                except Exception as error:
                    self._cannot(transform, error)
            traced = compiled
            self.run_all = _all_of(alone, traced, flat)
        self.transforms = [transform for transform, _ in traced]
        self._require_second_derivative()

    @classmethod
    def of(cls, runs: Runs, left: Callable[[], float] = lambda: math.inf) -> "Variants":
        """The variants of these runs, compiled once.

        Args:
          runs: the rule and the reference.
          left: how many seconds are left; the variants that would take longer are left out.
        """
        variants = once(runs, "variants", lambda: cls(runs, left))
        if variants.left_out:
            del runs.shared["variants"]  # the next check may have more time
        return variants

    def run(
        self, pairs: Sequence[tuple[Probe, Pair]], errors: Sequence[float], vanishes: bool
    ) -> Outcome:
        """Runs every variant on two of the first probes and compares.

        Args:
          pairs: the probes that were run, each with its results.
          errors: for each leaf, the rule's error in the working dtype, in rounding units.
          vanishes: whether a gradient is zero on all probes.
        """
        # The probes farthest from kinks, where a different subgradient is no variant's error.
        smooth = sorted(pairs[:3], key=lambda pair: -min(pair[1].margin, 0.1))
        (first, at_first), (second, _) = (smooth * 2)[:2]
        a, b = (self.runs.narrow(p.values) for p in (first, second))
        b = [v if i in self.runs.diff else a[i] for i, v in enumerate(b)]
        dys_a, dys_b = (self.runs.narrow_dys(p.dys) for p in (first, second))
        flat = jax.tree.leaves((a, b, dys_a, dys_b))
        variants: dict[str, str] = dict(self.unsupported)
        variants |= dict.fromkeys(self.left_out, "not compared: out of time")
        findings = list(self.findings)
        try:
            with quiet_callbacks():
                outcomes, again = (jax.device_get(self.run_all(*flat)) for _ in range(2))
        except RuntimeError as error:
            why = f"not compared: the function itself raises {said_by_user(error)!r}"
            return Outcome({**variants, **{t.name: why for t in self.transforms}}, findings)
        if changing := self._changing(outcomes, again):
            says = "run twice on the same input, the rule differs"
            findings += [("NONDETERMINISTIC", says, k) for k in _known(changing)]
            return Outcome(variants, findings)
        # The rounding error of a rule in this dtype may differ between variants.
        units = [
            error * float(jnp.finfo(self.runs.dtypes[i]).eps)
            for error, i in zip(errors, self.runs.diff, strict=True)
        ]
        lost = 4 * max(units, default=0.0)
        size = max((largest(g) for g in at_first.rule_grads), default=0.0)
        why_not = self._why_no_second(vanishes, at_first.margin, a)
        if max(units, default=0.0) > self._unit() ** (2 / 3):
            # A derivative of what rounding has left of the gradient would be noise.
            why_not = why_not or "its gradient loses a third of its digits in this dtype"
        for transform, outs in zip(self.transforms, outcomes, strict=True):
            name, half = transform.name, len(outs) // 2
            if transform.is_second and why_not:
                variants[name] = f"not compared: {why_not}"
                continue
            floor = 1e-3 * size if transform.is_second else 0.0
            off_by = _relative_errors(outs[:half], outs[half:], floor)
            allowed = max(self._allowed(transform), lost)
            off = max(off_by, default=0.0)
            if transform.is_second and np.isinf(off) and self.runs.iterates:
                variants[name] = "not compared: the derivative of a loop is not finite"
                continue
            variants[name] = "same" if off <= allowed else f"differs by {off:.1e}"
            if off > allowed:
                verdict, says = "VARIANT", f"under {name} the gradient differs by {off:.1e}"
                if name == "jit":
                    verdict = "NONDETERMINISTIC"
                    says = "traced again, the rule gives another gradient"
                owners = zip(transform.owners, off_by, strict=True)
                wrong = _known({k for k, e in owners if e > allowed})
                findings += [(verdict, says, k) for k in wrong]
        return Outcome(variants, findings)

    def _changing(self, outcomes: Sequence[Any], again: Sequence[Any]) -> set[int | None]:
        """The leaves whose gradients differ between two runs of the same programs."""
        changing: set[int | None] = set()
        for transform, one, other in zip(self.transforms, outcomes, again, strict=True):
            pairs = zip(transform.owners * 2, one, other, strict=True)
            changing |= {k for k, a, b in pairs if not _same_bits(a, b)}
        return changing

    def _why_no_second(self, vanishes: bool, margin: float, values: list[Any]) -> str:
        """Why derivatives of the gradient cannot be compared; "" if they can."""
        # With stop_gradient, the second derivatives of a right rule and of autodiff may differ.
        if holds_fixed(self.runs) or vanishes:
            return "the function holds something fixed"
        if (domain := self.runs.subject.domain) is not None:
            draw = np.random.default_rng(0).normal
            moves = {i: draw(size=np.shape(values[i])) for i in self.runs.diff}
            if domain.is_thin(self.runs.wide(values), moves):
                return "its domain has no interior"
        return "all inputs are at kinks" if margin < 1e-4 else ""

    def _unit(self) -> float:
        return max(float(jnp.finfo(self.runs.dtypes[i]).eps) for i in self.runs.diff)

    def _allowed(self, transform: Transform) -> float:
        unit = self._unit()
        if transform.is_second:
            least = 1e-2 if unit < 1e-3 else max(1e3 * unit, unit**0.5)
            return max(least, of_derivative(self.runs.subject.accuracy))
        return max(1e3 * unit, unit**0.5)

    def _cannot(self, transform: Transform, error: Exception) -> None:
        said = f"{type(error).__name__}: {first_line(error)[:90]}"
        if leak(error):
            self.findings.append(("STRUCTURE", f"{leak(error)} (under {transform.name})", None))
        self.unsupported[transform.name] = f"not supported: {said}"

    def _require_second_derivative(self) -> None:
        """Reports a gradient that cannot be differentiated although the function's own can be."""
        seconds = [t for t in transforms(self.runs) if t.is_second]
        # Kernels have no derivatives: that is a limitation, not a mistake of the rule.
        if self.runs.has_kernels or not seconds:
            return
        if not all(t.name in self.unsupported for t in seconds):
            return
        lost = undifferentiable(self.runs)
        if not lost:
            return
        why = self.unsupported[seconds[-1].name].split(": ", 2)[-1]
        text = f"{UNDIFFERENTIABLE} (grad of grad): {why}"
        self.findings += [("VARIANT", text, k) for k in lost]


def _alone(runs: Runs, a: Any, b: Any, da: Any, db: Any) -> list[Any]:
    """The rule's gradients at both, without a transformation."""
    return [g for v, d in ((a, da), (b, db)) for g in runs.subject.pull(runs.subject.f, v, d)[1]]


def _all_of(
    alone: ClosedJaxpr, traced: Sequence[tuple[Transform, Any]], flat: Sequence[Any]
) -> Any:
    def run(*flat: Any) -> list[Any]:
        gradients = evaluate(alone, *flat)
        return [evaluate(program, *flat, *gradients) for _, program in traced]

    return quick(run, *flat)


def _known(leaves: set[int | None]) -> list[int | None]:
    """The leaves in order; [None], for the whole rule, if no leaf is known."""
    known: list[int | None] = [k for k in sorted(leaves, key=str) if k is not None]
    return known or [None]


def _same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _relative_errors(got: Sequence[Any], want: Sequence[Any], floor: float) -> list[float]:
    """The largest error of each array over max(its size, 1e-3 of the largest size, floor)."""
    wide = [[np.asarray(x).astype(np.complex128) for x in xs] for xs in (got, want)]
    pairs = list(zip(*wide, strict=True))
    sizes = [largest(w[np.isfinite(w)]) for _, w in pairs]
    errors = []
    for (g, w), size in zip(pairs, sizes, strict=True):
        both = np.isfinite(g) & np.isfinite(w)
        scale = max(size, 1e-3 * max(sizes), floor)
        lost = (np.isfinite(w) & ~np.isfinite(g)).any()
        error = largest((g - w)[both]) / scale if scale else 0.0
        errors.append(float("inf") if lost else error)
    return errors
