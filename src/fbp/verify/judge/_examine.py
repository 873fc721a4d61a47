"""A rule beside its reference on every probe: its outputs, and in float64 its gradients."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp.verify.judge._bounds import algebra_allowed, lost_to_rounding, precision_allowed
from fbp.verify.judge._findings import Finding, LeafRecord
from fbp.verify.judge._limits import Limits
from fbp.verify.judge._narrow import Narrow
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import EPS64, largest
from fbp.verify.rule._runs import Pair, Runs

# A comparison this near to a tie, relatively, may fall either way.
AT_KINK = 1e-6


class Examination:
    """Runs probes and keeps what they show.

    Attributes:
      findings: everything that is not as it should be.
      leaves: a record for each differentiable leaf.
      compared: how many probes could be compared.
      is_finite_as_given: whether the function is finite at the arguments themselves.
      pairs: the probes that were compared, each with what it gave.
      notes: what a reader should know.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator) -> None:
        self.runs = runs
        self.limits = Limits(runs, rng)
        self.differences = self.limits.differences
        self.findings: list[Finding] = []
        self.leaves = [LeafRecord() for _ in runs.diff]
        self.narrow = Narrow(runs, self.leaves)
        self.compared = 0
        self.is_finite_as_given = True
        self.usual = [0.0] * len(runs.out_avals)
        self.notes: list[str] = []
        self.pairs: list[tuple[Probe, Pair]] = []

    def run(self, probes: Iterable[Probe]) -> None:
        ordinary: list[list[Any]] = []
        for probe in probes:
            if probe.ordinary:
                ordinary.append(probe.values)
            elif self.runs.iterates and not any(probe.values is values for values in ordinary):
                # It may not converge elsewhere, and then not end.
                self._note("only inputs near what was given were tried: the function iterates")
                continue
            if probe.extreme and self.runs.eps > 1e-12:
                # What rounding does there could not be told from an error.
                self._note("no large or small inputs were tried: not all of it runs in float64")
                continue
            pair = self.runs.exact(probe.values, probe.dys)
            if not all(np.isfinite(out).all() for out in pair.out):
                self.is_finite_as_given &= probe.name != "as given"
                continue  # outside of the function's domain
            if not pair.grads:
                self.differences.coordinates.clear()
                pair = pair._replace(grads=self.differences.gradients(probe))
            if probe.of_integers and self._is_outside(pair):
                self._note(f"the rule's forward is not for the integers tried ({probe.name})")
                continue
            self.compared += 1
            if probe.ordinary:
                self.narrow.exponent = max(self.narrow.exponent, pair.exponent)
            working = self.runs.working(probe.values, probe.dys)
            if probe.outside:
                self._outside(probe, pair)
                continue
            self.pairs.append((probe, pair))
            self._forward(probe, pair, working)
            for k in range(len(self.runs.diff)):
                self._leaf(probe, pair, working, k)

    def _say(
        self, verdict: str, leaf: int | None, probe: Probe, pair: Pair, says: str, size: float
    ) -> None:
        self.findings.append(Finding(verdict, leaf, probe, pair, says, size))

    def _is_outside(self, pair: Pair) -> bool:
        """Whether the rule's own forward is not what the function is, at integers not given."""
        return any(
            got.shape != want.shape or not largest(got - want) <= 1e-3 * largest(want)
            for got, want in zip(pair.rule_out, pair.out, strict=True)
        )

    def _forward(self, probe: Probe, pair: Pair, working: Pair) -> None:
        """The outputs of the rule's forward are those of the function."""
        for i, (got, want) in enumerate(zip(pair.rule_out, pair.out, strict=True)):
            unit = float(jnp.finfo(self.runs.out_avals[i].dtype).eps)
            scale = largest(want)
            if probe.ordinary:
                self.usual[i] = max(self.usual[i], scale)
            lost = lost_to_rounding(working.out[i], want)
            scale = max(scale, self.usual[i])
            allowed = algebra_allowed(self.runs.eps, unit, scale, lost, self.usual[i])
            error = largest(got - want) if got.shape == want.shape else np.inf
            if self.runs.eps == EPS64:
                allowed = max(allowed, 1e-7 * scale)  # for approximations, as in gradients
            if not error <= allowed and self._differs_off_ties(probe, pair, i):
                self._say(
                    *("STRUCTURE", None, probe, pair),
                    f"output {i} of the rule's forward differs from {self.runs.own} by "
                    f"{error:.1e} in float64",
                    error / allowed if allowed else np.inf,
                )
            own, rules = working.out[i], working.rule_out[i]
            if not np.isfinite(own).all():
                continue
            dtype = self.runs.out_avals[i].dtype
            if not np.isfinite(rules).all():
                self._in_dtype("RANGE", None, probe, pair, f"output {i} is not finite in {dtype}")
            elif probe.ordinary and got.shape == want.shape:
                control = largest(own - want) / scale if scale else 0.0
                error = largest(rules - want) / scale if scale else 0.0
                allowed = precision_allowed(unit, control, self.runs.longest_sum)
                if error > max(allowed, unit ** (2 / 3)) and pair.margin > 64 * unit:
                    says = f"output {i} of the rule's forward errs by {error:.1e} in {dtype}"
                    self._say("STRUCTURE", None, probe, pair, says, error / allowed)

    def _differs_off_ties(self, probe: Probe, pair: Pair, i: int) -> bool:
        """Whether an output that differs does so too where nothing is at a tie."""
        if pair.margin > max(AT_KINK, 64 * self.runs.eps):
            return True
        aside = self.limits.aside(probe)
        if aside.margin <= AT_KINK and not self.runs.hides_kinks:
            return False
        off = largest(aside.rule_out[i] - aside.out[i])
        return off > 1e-6 * max(largest(aside.out[i]), self.usual[i])

    def _in_dtype(
        self, verdict: str, leaf: int | None, probe: Probe, pair: Pair, says: str
    ) -> None:
        """Says what shows in the working dtype only, unless that is not what was given."""
        if self.runs.subject.in_float64:
            self._note(f"{says} ({probe.name}): what was given is of float64")
        else:
            self._say(verdict, leaf, probe, pair, says, np.inf)

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
        record.seen = max(record.seen, scale)
        record.covered = record.covered | known
        wrong = not error <= allowed
        if wrong and error <= 1e-7 * scale and self.runs.eps == EPS64:
            # An approximated function has a derivative that is not the approximated derivative.
            self._note("agrees to seven digits only: the function approximates, or its rule does")
            wrong, record.digits = False, 1e-7
        known_wrong = any(f.verdict == "WRONG" and f.leaf == k for f in self.findings)
        if wrong and (pair.margin <= AT_KINK or self.runs.hides_kinks):
            if known_wrong:
                return  # what is wrong elsewhere has no say in what is right at a kink
            aside = self._off_ties(probe, k)
            if aside:
                self._say("WRONG", k, probe, pair, aside, np.inf)
                return
            says = self.limits.at_kink(probe, pair, k, got)
            if says is not None:
                if says:
                    self._say("CONVENTION", k, probe, pair, says, 0.0)
                return
        elif wrong and not known_wrong and self.differences.prefer_rule(probe, pair, k):
            self._note("autodiff of the function disagrees with its differences: those were used")
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
        size = scale if wrong else max(scale, self.narrow.saturated(pair, k))
        record.error = max(record.error, error / size if size else (np.inf if error else 0.0))
        record.excess = max(record.excess, error / allowed if allowed else (np.inf if error else 0))
        if scale and allowed / scale < record.smallest:
            record.smallest, record.best = allowed / scale, (np.where(known, want, 0), allowed)
        if wrong:
            return
        if self.runs.by != "reverse" and pair.margin > AT_KINK:
            says = self.differences.direction(probe, pair, k)
            if says:
                self._say("WRONG", k, probe, pair, says, np.inf)
                return
        imprecise = any(f.verdict == "PRECISION" and f.leaf == k for f in self.findings)
        lost = self.narrow.lost(probe, pair, working, k, known, imprecise)
        if lost:
            self._in_dtype(lost[0], k, probe, pair, lost[1])

    def _allowed(self, pair: Pair, working: Pair, k: int, known: np.ndarray, scale: float) -> float:
        """How far rounding alone may take the rule in float64 from its reference."""
        eps = self.runs.eps
        if self.runs.by == "differences":
            return 1e-6 * scale + 4 * self.differences.bars[k] + eps ** (2 / 3) * scale
        runs = [(working.rule_grads[k], pair.rule_grads[k])]
        if working.grads:
            runs.append((working.grads[k], pair.grads[k]))
        lost = max(lost_to_rounding(narrow[known], wide[known]) for narrow, wide in runs)
        usual = max(self.leaves[k].usual, self.narrow.saturated(pair, k))
        return algebra_allowed(eps, self.narrow.unit(k), scale, lost, usual)

    def _off_ties(self, probe: Probe, k: int) -> str:
        """What is wrong with a gradient beside a kink, where there is no choice; "" for nothing."""
        aside = self.limits.aside(probe)
        if aside.margin <= AT_KINK and not self.runs.hides_kinks:
            return ""
        got, want = aside.rule_grads[k], aside.grads[k]
        known = np.isfinite(got) & np.isfinite(want)
        if self.runs.by == "reverse" and not known.all():
            return ""
        off = np.where(known, np.abs(np.nan_to_num(got - want)), 0)
        scale = max(largest(want[known]), self.leaves[k].usual)
        allowed = 1e-7 * scale + 4 * self.differences.bars[k]
        if not off.max(initial=0.0) > allowed:
            return ""
        where = np.unravel_index(np.argmax(off), got.shape)
        place = f"[{', '.join(map(str, where))}]" if got.ndim else ""
        return f"{place} is {got[where]:.6g}, reference {want[where]:.6g}, beside a tie"

    def _nonfinite(self, probe: Probe, pair: Pair, k: int) -> None:
        """NaN or infinity somewhere: right only where the gradient has no finite limit."""
        got = pair.rule_grads[k]
        want = pair.grads[k]
        says = self.limits.at_singularity(probe, k, got, want)
        if says is not None:
            self._say(says[0], k, probe, pair, says[1], np.inf)
        elif self.runs.by == "reverse" and not self.runs.holds_fixed:
            # Autodiff has nothing to say here: a few elements by differences of the function.
            lost = np.flatnonzero(np.isnan(want.ravel()) & np.isfinite(got.ravel()))
            for element in map(int, self.limits.rng.permutation(lost)[:3]):
                against = self.differences.contradict(probe, pair, k, element)
                if against:
                    place = list(map(int, np.unravel_index(element, got.shape)))
                    text = f"{place} is {got.ravel()[element]:.6g}; {against}"
                    self._say("WRONG", k, probe, pair, text, np.inf)
                    return

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
