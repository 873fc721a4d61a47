"""Precision and range: how accurate a gradient is in the working dtype."""

import jax.numpy as jnp
import numpy as np

from fbp.verify.judge._bounds import absolute_allowed, precision_allowed
from fbp.verify.judge._findings import LeafRecord
from fbp.verify.probe._probes import Probe
from fbp.verify.program._margins import EXPONENTIALS
from fbp.verify.program._moving import primitives_reached
from fbp.verify.program._numbers import largest
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# With arguments of exp this large, float32 keeps fewer than four digits: see `Narrow.saturated`.
_SATURATED = 1e3


class Narrow:
    """Compares the rule's and autodiff's gradients in the working dtype with the reference."""

    def __init__(self, runs: Runs, leaves: list[LeafRecord]) -> None:
        self.runs, self.leaves = runs, leaves
        self._exponent = 1.0
        inputs = range(len(runs.subject.leaves))
        self._feeds = [
            bool(primitives_reached(runs.program, [j == i for j in inputs]) & {*EXPONENTIALS})
            for i in runs.diff
        ]

    def saw(self, exponent: float) -> None:
        """Notes the largest argument of an exponential in a run on ordinary input."""
        self._exponent = max(self._exponent, exponent)

    def unit(self, k: int) -> float:
        """The rounding unit of leaf k."""
        return float(jnp.finfo(self.runs.dtypes[self.runs.diff[k]]).eps)

    def saturated(self, pair: Pair, k: int) -> float:
        """The size of the terms that cancel in a saturated gradient; 0 if no exponential saturates.

        exp(u) errs by |u| units. exp(a - b), as in a softmax from its logsumexp, errs by |a| units
        even where a - b is 0. The factors multiplied with it have grown with a.
        """
        if pair.exponent <= _SATURATED:
            return 0.0
        return self.leaves[k].usual * max(1.0, pair.exponent / self._exponent)

    def lost(
        self, probe: Probe, pair: Pair, working: Pair, k: int, known: np.ndarray, imprecise: bool
    ) -> tuple[str, str] | None:
        """The verdict on leaf k in the working dtype, and its text; None if nothing is lost.

        On ordinary input the errors of the rule and of autodiff are added to the leaf's record.

        Args:
          probe: the probe; `pair` and `working` are its results in float64 and in this dtype.
          k: a leaf whose gradient is right in float64.
          known: the elements that have a reference.
          imprecise: whether the leaf has a PRECISION finding already.
        """
        want, got = pair.grads[k][known], working.rule_grads[k][known]
        dtype = self.runs.dtypes[self.runs.diff[k]]
        unit, scale = self.unit(k), largest(want)
        if not scale or not working.grads:
            return None
        if not all(np.isfinite(out).all() for out in working.out):
            return None
        control = working.grads[k][known]
        if scale > 1e-3 * float(jnp.finfo(dtype).max) or not np.isfinite(control).all():
            return None
        if self.runs.draws:
            want = control  # float64 draws other numbers
        error, theirs = largest(got - want) / scale, largest(control - want) / scale
        if not np.isfinite(got).all():
            if theirs > 1:
                return None  # autodiff's is finite, but none of its digits is right
            bad = ~np.isfinite(got)
            return "RANGE", (
                f"{bad.sum()} of {bad.size} elements are not finite in {dtype}, "
                f"where autodiff's are and the gradient is at most {scale:.2g}"
            )
        # This close to a kink, rounding decides which side a few elements fall on.
        if pair.margin < (256 * unit if unit < 1e-4 else 2 * unit):
            off = np.abs(got - want) > 0.01 * scale
            if off.any() and off.sum() <= max(2, 0.02 * off.size):
                return None
        accuracy = max(self.runs.subject.accuracy, self.leaves[k].wiggle)
        if probe.ordinary:
            record = self.leaves[k]
            record.working = max(record.working, error / unit)
            record.control = max(record.control, theirs / unit)
            allowed = precision_allowed(unit, theirs, self.runs.longest_sum) + accuracy
            if error > allowed:
                return "PRECISION", (
                    f"errs by {error / unit:.0f} rounding units of {dtype}, "
                    f"autodiff by {theirs / unit:.1f}"
                )
            if not self.runs.draws:
                self._both(probe, pair, working, k, known)
            return None
        if self._feeds[k] and pair.exponent * unit > 1e-4:
            # exp(u) errs by |u| units. Where four digits of a softmax are left and its terms
            # cancel, whether it was made from the logsumexp or divided by the sum decides.
            return None
        loses = error > max(0.1, 64 * theirs) + accuracy
        if loses and theirs < 1e-2 and unit < 1e-4 and not imprecise:
            usual, growth = self.leaves[k].usual, self._growth(probe)
            rest = unit ** (2 / 3) * growth**2 * usual
            if scale <= unit * usual:
                # The gradient vanishes, as in a decay. A product in an exponent errs by
                # unit * growth^2, so the exponential does too; two more factors may have grown.
                rest = max(rest, unit * growth**4 * usual)
            # An error up to `rest` is the rounding of terms that cancel in a saturated gradient.
            if error * scale > rest:
                return "RANGE", (
                    f"loses its digits in {dtype}: errs by {error:.1e} of the leaf, "
                    f"autodiff by {theirs:.1e}"
                )
        return None

    def _both(self, probe: Probe, pair: Pair, working: Pair, k: int, known: np.ndarray) -> None:
        """Records where the rule and autodiff both lose more digits than needs no remark."""
        want = pair.grads[k]
        off = np.minimum(*(np.abs(g[k] - want) for g in (working.rule_grads, working.grads)))
        off = np.where(known, off, 0.0)
        lost, unit = largest(off) / largest(want[known]), self.unit(k)
        if not lost > absolute_allowed(unit) + self.runs.subject.accuracy:
            return
        i, record = self.runs.diff[k], self.leaves[k]
        if record.both is not None and record.both[0] >= lost:
            return
        place = np.unravel_index(int(np.argmax(off)), off.shape)
        at = f"[{', '.join(map(str, place))}] = " if off.ndim else ""
        says = (
            f"both lose {lost / unit:,.0f} units of rounding of {self.runs.dtypes[i]}, the rule "
            f"and autodiff, at {at}{np.asarray(probe.values[i])[place]:.4g}"
        )
        record.both = lost, says, probe, pair

    def _growth(self, probe: Probe) -> float:
        """How many times larger the values of a probe are than the given ones; at least 1."""
        pairs = [(probe.values[i], self.runs.subject.values[i]) for i in self.runs.diff]
        sizes = [(largest(new), largest(given)) for new, given in pairs]
        return max([1.0, *(new / given for new, given in sizes if given)])
