"""Compares a rule's gradients with their references: in float64, then in the working dtype."""

import numpy as np

from fbp.verify.judge._bounds import AT_KINK, algebra_allowed, lost_to_rounding
from fbp.verify.judge._findings import Findings, LeafRecord
from fbp.verify.judge._leeways import Leeways
from fbp.verify.judge._limits import Limits
from fbp.verify.judge._narrow import Narrow
from fbp.verify.judge._singularity import at_singularity
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import largest, leeway_of_approximations
from fbp.verify.rule._derived import gradients_without_jit, holds_fixed
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs


class Gradients:
    """Compares gradients, leaf by leaf.

    Attributes:
      leaves: the results of all probes for each leaf.
      narrow: the comparison in the working dtype.
    """

    def __init__(self, runs: Runs, limits: Limits, findings: Findings) -> None:
        self.runs, self.limits, self.findings = runs, limits, findings
        self.differences = limits.differences
        self.leaves = [LeafRecord() for _ in runs.diff]
        self.narrow = Narrow(runs, self.leaves)
        self.leeways = Leeways(runs, self.differences, findings, self.narrow, self.leaves)

    def compare(self, probe: Probe, pair: Pair, working: Pair, k: int) -> None:
        """Compares the gradient of leaf k on one probe."""
        got, want = pair.rule_grads[k], pair.grads[k]
        if not want.size:
            return
        if probe.as_given and self.runs.masks and np.isfinite(got).all():
            bare = gradients_without_jit(self.runs, probe.values, probe.dys)[k]
            found = at_singularity(self.limits, probe, k, bare, want)
            if found is not None and not np.isfinite(bare).all():
                text = f"without jit: {found[1]} (jit makes x * mask a choice between x and 0)"
                self.findings.say(found[0], k, probe, pair, text, np.inf)
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
        if (leeway := self.runs.subject.accuracy * scale) > allowed:
            if error > allowed:
                record.leeway = max(record.leeway, error / scale)
            record.digits, allowed = self.runs.subject.accuracy, leeway
        record.compared = True
        record.seen = max(record.seen, scale)
        record.covered = record.covered | known
        wrong = not error <= allowed
        known_wrong = self.findings.has("WRONG", k)
        digits = self.leeways.digits(probe, pair, k, known, allowed) if wrong else None
        if digits is not None:
            wrong, record.digits = False, max(record.digits, digits)
        iterates = self.runs.iterates and not known_wrong
        if wrong and iterates and self.differences.prefer_rule(probe, pair, k):
            # Beside a root, every comparison of a search for it is a tie.
            self._by_differences(record, got)
            return
        if wrong and (pair.margin <= AT_KINK or self.runs.hides_kinks):
            if known_wrong:
                return  # at a kink, a gradient that is wrong elsewhere is not judged
            aside = self._off_ties(probe, k)
            if aside:
                self.findings.say("WRONG", k, probe, pair, aside, np.inf)
                return
            # A leaf that is wrong elsewhere makes no choice that this one could follow.
            judged = [j for j in range(len(pair.grads)) if not self.findings.has("WRONG", j)]
            says = self.limits.at_kink(probe, pair, k, got, judged)
            if says is None and self.limits.is_one_sided(probe, pair, k, got):
                which = (
                    "several ties" if self.runs.subject.is_whole else "ties that no input breaks"
                )
                says = f"at {which}, {self.limits.name(k)} takes another side"
            if says is not None:
                if says:
                    self.findings.say("CONVENTION", k, probe, pair, says, 0.0)
                return
        elif wrong and not known_wrong and self.differences.prefer_rule(probe, pair, k):
            self._by_differences(record, got)
            return
        if wrong:
            off = np.where(known, np.abs(np.nan_to_num(got - want)), 0)
            where = np.unravel_index(np.argmax(off), got.shape)
            place = f"[{', '.join(map(str, where))}]" if got.ndim else ""
            self.findings.say(
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
                self.findings.say("WRONG", k, probe, pair, says, np.inf)
                return
        imprecise = self.findings.has("PRECISION", k)
        lost = self.narrow.lost(probe, pair, working, k, known, imprecise)
        if lost:
            self.findings.in_dtype(lost[0], k, probe, pair, lost[1])

    def compare_outside(self, probe: Probe, pair: Pair) -> None:
        """Reports differences as CONVENTION: the integers may be outside the function's domain."""
        for k, (got, want) in enumerate(zip(pair.rule_grads, pair.grads, strict=True)):
            if not np.isfinite(want).all() or pair.margin <= AT_KINK:
                continue
            if not largest(got - want) <= 1e-6 * largest(want):
                says = "at an index of -1, outside of what was given, it is not autodiff's gradient"
                self.findings.say("CONVENTION", k, probe, pair, says, 0.0)

    def _allowed(self, pair: Pair, working: Pair, k: int, known: np.ndarray, scale: float) -> float:
        """The error that rounding alone may cause between the rule in float64 and its reference."""
        eps = self.runs.eps
        if self.runs.by == "differences":
            return 1e-6 * scale + 4 * self.differences.bars[k] + eps ** (2 / 3) * scale
        runs = [(working.rule_grads[k], pair.rule_grads[k])]
        if working.grads:
            runs.append((working.grads[k], pair.grads[k]))
            if self.runs.draws:  # float64 draws other numbers, and shows no rounding
                runs = [(working.rule_grads[k], working.grads[k])]
        lost = max(lost_to_rounding(narrow[known], wide[known]) for narrow, wide in runs)
        usual = max(self.leaves[k].usual, self.narrow.saturated(pair, k))
        return algebra_allowed(eps, self.narrow.unit(k), scale, lost, usual)

    def _by_differences(self, record: LeafRecord, got: np.ndarray) -> None:
        self.findings.note(
            "autodiff of the function disagrees with its differences: those were used"
        )
        record.seen = max(record.seen, largest(got[np.isfinite(got)]))

    def _off_ties(self, probe: Probe, k: int) -> str:
        """What is wrong with a gradient beside a kink, where it is unique; "" if nothing is."""
        there, aside = self.limits.beside(probe)
        if aside.margin <= AT_KINK and not self.runs.hides_kinks:
            return ""
        got, want = aside.rule_grads[k], aside.grads[k]
        known = np.isfinite(got) & np.isfinite(want)
        if self.runs.by == "reverse" and not known.all():
            return ""
        apart = np.where(known, np.nan_to_num(got - want), 0)
        off = np.abs(apart)
        saturated = self.narrow.saturated(aside, k)
        scale = max(largest(want[known]), self.leaves[k].usual, saturated)
        leeway = leeway_of_approximations(self.narrow.unit(k), self.runs.iterates)
        digits = max(leeway, self.leeways.as_traced(k), self.runs.subject.accuracy)
        allowed = digits * scale + 4 * self.differences.bars[k]
        if not off.max(initial=0.0) > allowed or self.leeways.wiggles(there, aside, k, apart):
            return ""
        where = np.unravel_index(np.argmax(off), got.shape)
        place = f"[{', '.join(map(str, where))}]" if got.ndim else ""
        return f"{place} is {got[where]:.6g}, reference {want[where]:.6g}, beside a tie"

    def _nonfinite(self, probe: Probe, pair: Pair, k: int) -> None:
        """Judges NaN or infinity, which is right only where the gradient has no finite limit."""
        got = pair.rule_grads[k]
        want = pair.grads[k]
        says = at_singularity(self.limits, probe, k, got, want)
        if says is not None:
            self.findings.say(says[0], k, probe, pair, says[1], np.inf)
        elif self.runs.by == "reverse" and not holds_fixed(self.runs):
            # Autodiff gives NaN here: compare a few elements with differences of the function.
            lost = np.flatnonzero(np.isnan(want.ravel()) & np.isfinite(got.ravel()))
            for element in map(int, self.limits.rng.permutation(lost)[:3]):
                against = self.differences.contradict(probe, pair, k, element)
                if against:
                    place = list(map(int, np.unravel_index(element, got.shape)))
                    text = f"{place} is {got.ravel()[element]:.6g}; {against}"
                    self.findings.say("WRONG", k, probe, pair, text, np.inf)
                    return
