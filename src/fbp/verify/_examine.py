"""Algebra, range and precision: a rule beside its reference on every probe."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from fbp.verify._bounds import (
    EPS64,
    algebra_allowed,
    largest,
    lost_to_rounding,
    precision_allowed,
)
from fbp.verify._findings import Finding, LeafRecord
from fbp.verify._limits import Limits
from fbp.verify._probes import Probe
from fbp.verify._runs import Pair, Runs

# A comparison this near to a tie, relatively, may fall either way.
AT_KINK = 1e-6


class Examination:
    """Runs probes and keeps what they show.

    Attributes:
      findings: everything that is not as it should be.
      leaves: a record for each differentiable leaf.
      compared: how many probes could be compared.
      points: constants that the function compares with.
      notes: what a reader should know.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator, points: list[float]) -> None:
        self.runs = runs
        self.points = points
        self.limits = Limits(runs, rng)
        self.differences = self.limits.differences
        self.findings: list[Finding] = []
        self.leaves = [LeafRecord() for _ in runs.diff]
        self.compared = 0
        self.notes: list[str] = []
        self.pairs: list[tuple[Probe, Pair]] = []

    def run(self, probes: Iterable[Probe]) -> None:
        for probe in probes:
            pair = self.runs.exact(probe.values, probe.dys)
            if not all(np.isfinite(out).all() for out in pair.out):
                continue  # outside of the function's domain
            if not pair.grads:
                pair = pair._replace(grads=self.differences.gradients(probe))
            self.compared += 1
            working = self.runs.working(probe.values, probe.dys)
            if probe.outside:
                self._outside(probe, pair)
                continue
            self.pairs.append((probe, pair))
            self._forward(probe, pair, self.runs.eps, "float64")
            if probe.ordinary and all(np.isfinite(o).all() for o in working.out):
                unit = max(float(jnp.finfo(a.dtype).eps) for a in self.runs.out_avals)
                self._forward(
                    probe, working._replace(margin=pair.margin), unit, "the working dtype"
                )
            for k in range(len(self.runs.diff)):
                self._leaf(probe, pair, working, k)

    def _say(
        self, verdict: str, leaf: int | None, probe: Probe, pair: Pair, says: str, size: float
    ) -> None:
        self.findings.append(Finding(verdict, leaf, probe, pair, says, size))

    def _forward(self, probe: Probe, pair: Pair, eps: float, dtype: str) -> None:
        for i, (got, want) in enumerate(zip(pair.rule_out, pair.out, strict=True)):
            scale = largest(want)
            error = largest(got - want) if got.shape == want.shape else np.inf
            allowed = (eps ** (2 / 3) if eps < 1e-3 else 8 * eps) * max(scale, 1e-300)
            if not error <= allowed and pair.margin > max(AT_KINK, 64 * eps):
                self._say(
                    *("STRUCTURE", None, probe, pair),
                    f"output {i} of the rule's forward differs from the function's own by "
                    f"{error:.1e} in {dtype}",
                    error / allowed,
                )

    def _outside(self, probe: Probe, pair: Pair) -> None:
        """Integers that the function was not given may be outside of what it is for."""
        for k, (got, want) in enumerate(zip(pair.rule_grads, pair.grads, strict=True)):
            if not np.isfinite(want).all() or pair.margin <= AT_KINK:
                continue
            if not largest(got - want) <= 1e-6 * largest(want):
                says = "at an index of -1, outside of what was given, it is not autodiff's gradient"
                self._say("CONVENTION", k, probe, pair, says, 0.0)

    def _leaf(self, probe: Probe, pair: Pair, working: Pair, k: int) -> None:
        got, want = pair.rule_grads[k], pair.grads[k]
        if not want.size:
            return
        known = ~np.isnan(want) if self.runs.by != "reverse" else np.ones(want.shape, bool)
        finite = np.isfinite(want) & np.isfinite(got)
        if not finite[known].all():
            self._nonfinite(probe, pair, k)
            known &= finite
        if not known.any():
            return
        scale = largest(want[known])
        record = self.leaves[k]
        if probe.ordinary:
            record.usual = max(record.usual, scale)
        allowed = self._allowed(pair, working, k, known, scale)
        error = largest((got - want)[known])
        record.compared = True
        wrong = not error <= allowed
        if wrong and error <= 1e-7 * scale and self.runs.eps == EPS64:
            # An approximated function has a derivative that is not the approximated derivative.
            self._note("agrees to seven digits only: the function approximates, or its rule does")
            wrong = False
        known_wrong = any(f.verdict == "WRONG" and f.leaf == k for f in self.findings)
        if wrong and pair.margin <= AT_KINK:
            if known_wrong:
                return  # what is wrong elsewhere has no say in what is right at a kink
            says = self.limits.at_kink(probe, pair, k, got)
            if says is not None:
                if says:
                    self._say("CONVENTION", k, probe, pair, says, 0.0)
                return
        elif wrong and not known_wrong and self.differences.prefer_rule(probe, pair, k):
            self._note("autodiff of the function disagrees with its differences: those were used")
            record.seen = max(record.seen, largest(want[known]))
            return
        if wrong and probe.extreme and self.runs.iterates and not known_wrong:
            self._note(f"differs at {probe.name} input, where a loop may not have converged")
            return
        if wrong:
            off = np.where(known, np.abs(np.nan_to_num(got - want)), 0)
            where = np.unravel_index(np.argmax(off), got.shape)
            place = f"[{', '.join(map(str, where))}]" if got.ndim else ""
            self._say(
                *("WRONG", k, probe, pair),
                f"{place} is {got[where]:.6g}, reference {want[where]:.6g}",
                error / allowed if allowed else np.inf,
            )
        record.error = max(record.error, error / scale if scale else (np.inf if error else 0.0))
        record.excess = max(record.excess, error / allowed if allowed else (np.inf if error else 0))
        if scale and allowed / scale < record.smallest:
            record.smallest, record.best = allowed / scale, (np.where(known, want, 0), allowed)
        record.seen = max(record.seen, largest(want[known]))
        if not wrong:
            self._in_working_dtype(probe, pair, working, k, known)

    def _allowed(self, pair: Pair, working: Pair, k: int, known: np.ndarray, scale: float) -> float:
        """How far rounding alone may take the rule in float64 from its reference."""
        eps = self.runs.eps
        if self.runs.by == "differences":
            return 1e-6 * scale + 4 * self.differences.bars[k] + eps ** (2 / 3) * scale
        runs = [(working.rule_grads[k], pair.rule_grads[k])]
        if working.grads:
            runs.append((working.grads[k], pair.grads[k]))
        lost = max(lost_to_rounding(narrow[known], wide[known]) for narrow, wide in runs)
        return algebra_allowed(eps, self._unit(k), scale, lost, self.leaves[k].usual)

    def _unit(self, k: int) -> float:
        return float(jnp.finfo(self.runs.dtypes[self.runs.diff[k]]).eps)

    def _nonfinite(self, probe: Probe, pair: Pair, k: int) -> None:
        """NaN or infinity somewhere: right only where the gradient has no finite limit."""
        got = pair.rule_grads[k]
        says = self.limits.at_singularity(probe, k, got, pair.grads[k])
        if says is None:
            return
        self._say(says[0], k, probe, pair, says[1], np.inf)

    def _in_working_dtype(
        self, probe: Probe, pair: Pair, working: Pair, k: int, known: np.ndarray
    ) -> None:
        want, got = pair.grads[k][known], working.rule_grads[k][known]
        dtype = self.runs.dtypes[self.runs.diff[k]]
        unit, scale = self._unit(k), largest(want)
        if not scale or not working.grads or not np.isfinite(working.rule_out[0]).all():
            return
        control = working.grads[k][known]
        if scale > 1e-3 * float(jnp.finfo(dtype).max) or not np.isfinite(control).all():
            return
        if not np.isfinite(got).all():
            bad = ~np.isfinite(got)
            self._say(
                *("RANGE", k, probe, pair),
                f"{bad.sum()} of {bad.size} elements are not finite in {dtype}, "
                f"where autodiff's are and the gradient is at most {scale:.2g}",
                np.inf,
            )
            return
        if self.runs.draws:
            want = control  # float64 draws other numbers
        # So near to a kink rounding decides on which side a few elements are.
        if pair.margin < (256 * unit if unit < 1e-4 else 2 * unit):
            off = np.abs(got - want) > 0.01 * scale
            if off.any() and off.sum() <= max(2, 0.02 * off.size):
                return
        imprecise = any(f.verdict == "PRECISION" and f.leaf == k for f in self.findings)
        error, theirs = largest(got - want) / scale, largest(control - want) / scale
        if probe.ordinary:
            record = self.leaves[k]
            record.working = max(record.working, error / unit)
            record.control = max(record.control, theirs / unit)
            allowed = precision_allowed(unit, theirs, self.runs.longest_sum)
            if error > allowed:
                self._say(
                    *("PRECISION", k, probe, pair),
                    f"errs by {error / unit:.0f} rounding units of {dtype}, "
                    f"autodiff by {theirs / unit:.1f}",
                    error / allowed,
                )
        elif error > 0.1 and theirs < 1e-2 and unit < 1e-4 and not imprecise:
            self._say(
                *("RANGE", k, probe, pair),
                f"loses its digits in {dtype}: errs by {error:.1e} of the leaf, "
                f"autodiff by {theirs:.1e}",
                np.inf,
            )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
