"""Why a right gradient may be off by more than rounding: approximations, and loops that stop."""

import math

import numpy as np

from fbp.verify.judge._differences import Differences, typical_size
from fbp.verify.judge._findings import Findings, LeafRecord
from fbp.verify.judge._narrow import Narrow
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import EPS32, EPS64, largest, leeway_of_approximations
from fbp.verify.rule._derived import second
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# So far beside a point, relative to the leaf's size, an error of the function is looked at.
_BESIDE = (0.0, 0.01, -0.01, 0.1, -0.1)


class Leeways:
    """What explains the error of a gradient, if it is no mistake."""

    def __init__(
        self,
        runs: Runs,
        differences: Differences,
        findings: Findings,
        narrow: Narrow,
        leaves: list[LeafRecord],
    ) -> None:
        self.runs, self.differences, self.findings = runs, differences, findings
        self.narrow, self.leaves = narrow, leaves

    def digits(
        self, probe: Probe, pair: Pair, k: int, known: np.ndarray, allowed: float
    ) -> float | None:
        """The relative error that is no mistake of the rule; None if nothing explains its error.

        Args:
          probe: the probe; `pair` has its results.
          k: a leaf whose error is larger than `allowed`.
          known: the elements that have a reference.
          allowed: the error that rounding explains.
        """
        runs, note, usual = self.runs, self.findings.note, self.leaves[k].usual
        off = np.where(known, np.nan_to_num(pair.rule_grads[k] - pair.grads[k]), 0)
        error, scale = largest(off), largest(pair.grads[k][known])
        leeway = leeway_of_approximations(self.narrow.unit(k), runs.iterates)
        # In a softmax that saturates, what approximates are the terms, which cancel. And in a loss
        # a tail adds to gradients of the usual size.
        saturated = self.narrow.saturated(pair, k)
        terms = max(scale, saturated, usual if runs.subject.is_call else 0.0)
        digits = f"agrees to {-math.log10(leeway):.0f} digits only"
        if error <= leeway * terms and runs.eps == EPS64:
            note(f"{digits}: the function approximates, or its rule does")
            return leeway
        if error <= self.as_traced(k) * max(scale, usual):
            # Approximations were chosen for this dtype when the program was traced.
            note("agrees to the digits of the dtype that the program was traced in")
            return self.as_traced(k)
        if self.findings.has("WRONG", k):
            return None
        if self.wiggles(probe, pair, k, off):
            note(f"{digits}: the function's own error, of float32, has a larger slope")
            record = self.leaves[k]
            record.wiggle = max(record.wiggle, error / max(scale, usual))
            return record.wiggle
        return self._of_loops(probe, pair, k, allowed) if runs.iterates else None

    def as_traced(self, k: int) -> float:
        """The relative error of approximations chosen for the dtype a program was traced in."""
        return 64 * self.narrow.unit(k) if self.runs.subject.as_traced else 0.0

    def wiggles(self, probe: Probe, pair: Pair, k: int, off: np.ndarray) -> bool:
        """Whether `off` is the slope of an error of the function that is below float32's rounding.

        An approximation of a function may be right to all digits of float32, and its slope not: an
        error e sin(w x) has the slope e w and the curvature e w^2. So slope^2 / curvature is the
        size of the error. A wrong term of a rule is as smooth as its other terms, and this its own
        size. More than eps^(2/3) of float32 is not explained.

        Args:
          probe: the probe; `pair` has its results.
          k: the leaf.
          off: the rule's gradient minus the reference.
        """
        runs, usual = self.runs, max(largest(pair.rule_grads[k]), self.leaves[k].usual)
        if runs.by != "reverse" or runs.eps > EPS64 or np.iscomplexobj(off) or not np.any(off):
            return False
        if not largest(off) <= EPS32 ** (2 / 3) * usual:
            return False
        slope = float(np.sqrt((off**2).sum()))
        i, along = runs.diff[k], off / slope
        moves = [along if j == i else np.zeros(np.shape(probe.values[j])) for j in runs.diff]
        # As large as usual: where the values are small, an error may be flat all around.
        size = max(typical_size(np.asarray(v[i])) for v in (probe.values, runs.subject.values))
        curvature = 0.0
        for step in _BESIDE:
            values = runs.wide(probe.values)
            values[i] = values[i] + step * size * along
            values = runs.subject.inside(values, probe.values) or values
            try:
                rule, auto = second(runs, values, probe.dys, moves)
            except Exception:  # a rule that cannot be differentiated
                return False
            here = float(np.sqrt(((rule[k] - auto[k]) ** 2).sum()))
            curvature = max(curvature, here if np.isfinite(here) else 0.0)
        # Where the function is zero, the digits are those of its usual size.
        given = runs.exact(runs.subject.values, probe.dys).out
        parts = zip(probe.dys, pair.out, given, strict=True)
        height = sum(float(np.sum(np.abs(d) * np.maximum(abs(y), abs(u)))) for d, y, u in parts)
        return slope**2 <= EPS32 * height * curvature

    def _of_loops(self, probe: Probe, pair: Pair, k: int, allowed: float) -> float | None:
        further = self.differences.further(probe, pair, k)
        if further is None:
            return None
        known = np.isfinite(further) & np.isfinite(pair.grads[k])
        theirs = largest((further - pair.grads[k])[known])
        rest = largest((further - pair.rule_grads[k])[known])
        error = largest((pair.rule_grads[k] - pair.grads[k])[known])
        # A gradient of zero, as with respect to an initial guess, has no size of its own.
        size = max(largest(pair.grads[k][known]), 1e-6 * max(map(largest, pair.grads)))
        if rest <= 0.1 * theirs and theirs <= 1e-2 * size:
            self.findings.note("the reference errs by more than the rule: its loops stop early")
            return 4 * rest / size
        if not (error <= 4 * theirs + allowed and theirs <= 1e-3 * size):
            return None
        self.findings.note(
            f"the reference itself errs by {theirs / size:.0e}: its loops stop early"
        )
        return 4 * theirs / size
