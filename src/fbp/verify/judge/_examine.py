"""Runs a rule and its reference on every probe, and decides which probes are compared."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fbp.verify.judge._findings import Finding, Findings, LeafRecord
from fbp.verify.judge._gradients import Gradients
from fbp.verify.judge._limits import Limits
from fbp.verify.judge._outputs import Outputs
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import largest
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# A linear solve leaves a larger relative residual than this, and than 100 times that at the given
# input, where it fails: as the method of conjugate gradients does if a matrix is not symmetric.
_UNSOLVED = 1e-5


class Examination:
    """Runs probes and collects the findings.

    Attributes:
      compared: how many probes could be compared.
      is_finite_as_given: whether the function is finite at the given arguments.
      pairs: the probes that were compared, each with its results.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator) -> None:
        self.runs = runs
        self.compared = 0
        self.is_finite_as_given = True
        self._unsolved = _UNSOLVED
        self.pairs: list[tuple[Probe, Pair]] = []
        self._findings = Findings(runs.subject.in_float64)
        limits = Limits(runs, rng)
        self._differences = limits.differences
        self._outputs = Outputs(runs, limits, self._findings)
        self._gradients = Gradients(runs, limits, self._findings)

    @property
    def findings(self) -> list[Finding]:
        """All findings so far."""
        return self._findings.found

    @property
    def notes(self) -> list[str]:
        """Remarks for the reader of the report."""
        return self._findings.notes

    @property
    def leaves(self) -> list[LeafRecord]:
        """A record for each differentiable leaf."""
        return self._gradients.leaves

    def run(self, probes: Iterable[Probe]) -> None:
        """Runs both programs on each probe in the domain of the function, and compares."""
        note = self._findings.note
        ordinary: list[list[Any]] = []
        for probe in probes:
            if probe.ordinary:
                ordinary.append(probe.values)
            elif self.runs.iterates and not any(probe.values is values for values in ordinary):
                # Elsewhere its loop may not converge, and so not end.
                note("only inputs near what was given were tried: the function iterates")
                continue
            if probe.extreme and self.runs.eps > 1e-12:
                # Rounding errors there could not be told from wrong terms.
                note("no large or small inputs were tried: not all of it runs in float64")
                continue
            pair = self.runs.exact(probe.values, probe.dys)
            if not all(np.isfinite(out).all() for out in pair.out):
                self.is_finite_as_given &= not probe.as_given
                continue  # outside of the function's domain
            if probe.as_given:
                self._unsolved = max(_UNSOLVED, 100 * pair.residual)
            if pair.residual > self._unsolved:
                note(f"left out: a linear solve fails there ({probe.name})")
                continue
            is_edge = self.runs.by == "differences" and not probe.ordinary
            if is_edge and self._differences.is_singular(probe):
                note(f"left out: the function grows without bound there ({probe.name})")
                continue
            if not pair.grads:
                self._differences.coordinates.clear()
                pair = pair._replace(grads=self._differences.gradients(probe))
            if probe.of_integers and _is_outside(pair):
                note(f"the rule's forward is not for the integers tried ({probe.name})")
                continue
            self.compared += 1
            if probe.ordinary:
                self._gradients.narrow.saw(pair.exponent)
            working = self.runs.working(probe.values, probe.dys)
            if probe.outside:
                self._gradients.compare_outside(probe, pair)
                continue
            self.pairs.append((probe, pair))
            self._outputs.compare(probe, pair, working)
            for k in range(len(self.runs.diff)):
                self._gradients.compare(probe, pair, working, k)
        if raised := self.runs.raised:
            note(f"{len(raised)} runs are left out: the function itself raises {raised[0]!r}")


def _is_outside(pair: Pair) -> bool:
    """Whether the rule's forward differs from the function at integers that were not given."""
    return any(
        got.shape != want.shape or not largest(got - want) <= 1e-3 * largest(want)
        for got, want in zip(pair.rule_out, pair.out, strict=True)
    )
