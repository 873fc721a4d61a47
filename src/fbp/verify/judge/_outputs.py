"""Compares the outputs of a rule's forward with those of the function."""

import jax.numpy as jnp
import numpy as np

from fbp.verify.judge._bounds import AT_KINK, algebra_allowed, lost_to_rounding, precision_allowed
from fbp.verify.judge._findings import Findings
from fbp.verify.judge._limits import Limits
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import EPS64, largest
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs


class Outputs:
    """Compares outputs; `usual` has the size of each on ordinary input."""

    def __init__(self, runs: Runs, limits: Limits, findings: Findings) -> None:
        self.runs, self.limits, self.findings = runs, limits, findings
        self.usual = [0.0] * len(runs.out_avals)

    def compare(self, probe: Probe, pair: Pair, working: Pair) -> None:
        """Compares the outputs of the rule's forward with the function's on one probe."""
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
            allowed = max(allowed, self.runs.subject.accuracy * scale)
            if not error <= allowed and self._differs_off_ties(probe, pair, i):
                self.findings.say(
                    *("STRUCTURE", None, probe, pair),
                    f"output {i} of the rule's forward differs from {self.runs.own} by "
                    f"{error:.1e} in float64 ({probe.name})",
                    error / allowed if allowed else np.inf,
                )
            own, rules = working.out[i], working.rule_out[i]
            if not np.isfinite(own).all():
                continue
            dtype = self.runs.out_avals[i].dtype
            if not np.isfinite(rules).all():
                self.findings.in_dtype(
                    "RANGE", None, probe, pair, f"output {i} is not finite in {dtype}"
                )
            elif probe.ordinary and got.shape == want.shape:
                control = largest(own - want) / scale if scale else 0.0
                error = largest(rules - want) / scale if scale else 0.0
                allowed = precision_allowed(unit, control, self.runs.longest_sum)
                allowed += self.runs.subject.accuracy
                if error > max(allowed, unit ** (2 / 3)) and pair.margin > 64 * unit:
                    says = f"output {i} of the rule's forward errs by {error:.1e} in {dtype}"
                    says += f" ({probe.name})"
                    self.findings.say("STRUCTURE", None, probe, pair, says, error / allowed)

    def _differs_off_ties(self, probe: Probe, pair: Pair, i: int) -> bool:
        """Whether an output that differs at a tie also differs where nothing is at a tie."""
        if pair.margin > max(AT_KINK, 64 * self.runs.eps):
            return True
        aside = self.limits.aside(probe)
        if aside.margin <= AT_KINK and not self.runs.hides_kinks:
            return False
        off = largest(aside.rule_out[i] - aside.out[i])
        return off > 1e-6 * max(largest(aside.out[i]), self.usual[i])
