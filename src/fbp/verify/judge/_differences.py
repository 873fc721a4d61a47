"""Derivatives without reverse mode: by finite differences, or by forward-mode autodiff."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import largest, leeway_of_approximations
from fbp.verify.rule._derived import forward_slope, holds_fixed, refined_gradients
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs


class Differences:
    """Derivatives of the function that a `Runs` holds.

    Attributes:
      bars: for each leaf, a bound on the error of the last `gradients`.
      coordinates: for each leaf, the elements to differentiate; drawn anew after they are cleared.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator) -> None:
        self.runs, self.rng = runs, rng
        self.coordinates: dict[int, np.ndarray] = {}
        self.bars = [0.0] * len(runs.diff)

    def slope(
        self, values: list[Any], dys: list[Any], moves: dict[int, np.ndarray], step: float
    ) -> tuple[float, float]:
        """The derivative of <dy, f> along `moves`, and a bound on its error.

        Central differences with halved steps, extrapolated (Ridders' method). The bound is twice
        the difference between the best extrapolation and those it was made from, plus what rounding
        of f does to a difference of this step.
        """
        wide = self.runs.wide(values)
        if self.runs.subject.domain is not None:
            step = self.runs.subject.domain.step(wide, moves, step)

        def at(h: float) -> list[np.ndarray]:
            moved = list(wide)
            for j, v in moves.items():
                moved[j] = wide[j] + h * v
            return self.runs.exact(moved, dys).out

        def between(ahead: list[np.ndarray], behind: list[np.ndarray]) -> float:
            # Subtract element by element: the difference of two sums may lose small changes.
            parts = zip(dys, ahead, behind, strict=True)
            with np.errstate(invalid="ignore"):
                return float(sum(np.sum(d * (a - b)).real for d, a, b in parts))

        rows: list[list[float]] = []
        best, bar, noise = np.nan, np.inf, 0.0
        for n in range(6):
            h = step / 2**n
            ahead, behind = at(h), at(-h)
            row = [between(ahead, behind) / (2 * h)]
            summed = sum(float(np.sum(np.abs(d * a))) for d, a in zip(dys, ahead, strict=True))
            for m in range(1, n + 1):
                row.append(row[m - 1] + (row[m - 1] - rows[-1][m - 1]) / (4**m - 1))
                error = max(abs(row[m] - row[m - 1]), abs(row[m] - rows[-1][m - 1]))
                if error < bar:
                    best, bar, noise = row[m], error, 4 * self.runs.eps * summed / h
            rows.append(row)
        return best, 2 * bar + (noise if np.isfinite(noise) else 0.0)

    def further(self, probe: Probe, pair: Pair, k: int) -> np.ndarray | None:
        """The reference gradient of leaf k when the function's loops go on; NaN where not known.

        A loop that stops at a tolerance leaves an error in the function and in its derivative.
        """
        if self.runs.by == "reverse":
            return refined_gradients(self.runs, probe.values, probe.dys)[k]
        if self.runs.by != "forward":
            return None
        further = np.full(pair.grads[k].shape, np.nan)
        for element in self.coordinates.get(k, ()):
            v = np.zeros(further.size)
            v[element] = 1.0
            moves = {self.runs.diff[k]: v.reshape(further.shape)}
            further.flat[element] = forward_slope(
                self.runs, probe.values, probe.dys, moves, further=True
            )
        return further

    def prefer_rule(self, probe: Probe, pair: Pair, k: int) -> bool:
        """Whether finite differences of the function agree with the rule and not with autodiff."""
        off = np.nan_to_num(pair.rule_grads[k] - pair.grads[k])
        if holds_fixed(self.runs):
            return False  # stop_gradient: autodiff omits on purpose what differences see
        i = self.runs.diff[k]
        if np.iscomplexobj(off) or not np.abs(off).max() > 0:
            return False
        v = off / np.abs(off).max()
        v /= np.sqrt((v**2).sum())
        size = typical_size(np.asarray(probe.values[i])) or 1.0
        step = size * min(1e-2, max(pair.margin / 8, 1e-5))
        if self.runs.iterates:
            step = size * 3e-2  # its values are steps of the tolerance that its loops stop at
        slope, bar = self.slope(probe.values, probe.dys, {i: v}, step / max(np.abs(v).max(), 1e-9))
        rule, auto = (float((np.nan_to_num(g[k]) * v).sum()) for g in (pair.rule_grads, pair.grads))
        gap = abs(rule - auto)
        return bool(abs(slope - rule) + bar < 0.05 * gap)

    def contradict(self, probe: Probe, pair: Pair, k: int, element: int) -> str:
        """How finite differences contradict one element of a rule's gradient; "" if they do not.

        Used where autodiff is not finite although the function is.
        """
        slope, bar = self._at(probe, self.runs.diff[k], element)
        nearer, _ = self._at(probe, self.runs.diff[k], element, 1e-4)
        if not abs(slope - nearer) <= 0.05 * abs(slope) + bar:
            return ""  # the slope depends on the step: no derivative to compare with
        got = complex(pair.rule_grads[k].ravel()[element])
        if bar > 1e-3 * abs(slope - got) or abs(slope - got) <= 0.05 * max(abs(slope), abs(got)):
            return ""
        shown = f"{slope:.6g}" if np.iscomplexobj(pair.rule_grads[k]) else f"{slope.real:.6g}"
        return f"differences of the function give {shown}, and autodiff none"

    def is_singular(self, probe: Probe) -> bool:
        """Whether the function itself grows without bound beside a probe, as a logarithm does at 0.

        It is run at three distances, each a thousandth of the one before. What a function changes
        by from one to the next becomes as much smaller if it is smooth; the same, at a pole.
        """
        moves = {
            i: self.rng.normal(size=np.shape(probe.values[i])) * typical_size(probe.values[i])
            for i in self.runs.diff
        }
        wide = self.runs.wide(probe.values)
        outs = []
        for step in (1e-3, 1e-6, 1e-9):
            moved = [v + step * moves[i] if i in moves else v for i, v in enumerate(wide)]
            moved = self.runs.subject.inside(moved, wide) or wide
            outs.append(self.runs.exact(moved, probe.dys).out)
        for far, near, nearest in zip(*outs, strict=True):
            noise = 1e-3 * largest(near[np.isfinite(near)])
            with np.errstate(invalid="ignore"):
                before, after = largest(far - near), largest(near - nearest)
            if after > max(0.5 * before, noise):
                return True
        return False

    def direction(self, probe: Probe, pair: Pair, k: int) -> str:
        """How a derivative in a random direction contradicts a rule's gradient; "" if it does not.

        Used where only some elements are compared one by one.
        """
        i, got = self.runs.diff[k], pair.rule_grads[k]
        if not np.isfinite(got).all() or not got.any():
            return ""
        v = self.rng.normal(size=got.shape) / np.sqrt(max(1, got.size))
        if self.runs.by == "forward":
            args = self.runs, probe.values, probe.dys, {i: v}
            slope, bar = forward_slope(*args), 0.0
            if self.runs.iterates:
                bar = abs(forward_slope(*args, further=True) - slope)
        else:
            step = 0.02 * typical_size(np.asarray(probe.values[i]))
            slope, bar = self.slope(probe.values, probe.dys, {i: v}, step)
        rule = float((got * v).sum().real)
        unit = float(jnp.finfo(self.runs.dtypes[i]).eps)
        leeway = leeway_of_approximations(unit, self.runs.iterates)
        relative = max(1e-6, leeway, self.runs.subject.accuracy) + self.runs.eps ** (2 / 3)
        allowed = relative * np.sqrt((np.abs(got) ** 2).sum()) + 4 * bar
        if not np.isfinite(slope) or bar > 0.05 * abs(slope) or abs(rule - slope) <= allowed:
            return ""
        return f"along a random direction it is {rule:.6g}, reference {slope:.6g}"

    def confirm(self, probe: Probe, pair: Pair, step: float) -> bool:
        """Whether the rule's gradients are right along a random direction, by one difference.

        Its step is small enough that only rounding is left of its error, and no kink in between.
        """
        wide = self.runs.wide(probe.values)
        for k, i in enumerate(self.runs.diff):
            got = pair.rule_grads[k]
            v = self.rng.normal(size=got.shape) / np.sqrt(max(1, got.size))
            h = step * typical_size(np.asarray(probe.values[i]))
            moved = [wide[i] + sign * h * v for sign in (1, -1)]
            ahead, behind = (
                self.runs.exact([*wide[:i], x, *wide[i + 1 :]], probe.dys).out for x in moved
            )
            parts = list(zip(probe.dys, ahead, behind, strict=True))
            slope = sum(float(np.sum(d * (a - b)).real) for d, a, b in parts) / (2 * h)
            rounding = sum(float(np.sum(np.abs(d * a))) for d, a, _ in parts) * self.runs.eps / h
            size = float(np.sqrt((np.abs(got) ** 2).sum())) + abs(slope)
            off = abs(float((got * v).sum().real) - slope)
            if not (rounding <= 1e-3 * size + 1e-12 and off <= 1e-6 * size + 4 * rounding):
                return False
        return True

    def gradients(self, probe: Probe) -> list[np.ndarray]:
        """The reference gradients at some elements, where autodiff has no reverse mode.

        They come from forward-mode autodiff if possible, else from finite differences. The other
        elements are NaN, and so are those whose error bound is too large.
        """
        grads = []
        self.bars = [0.0] * len(self.runs.diff)
        for k, i in enumerate(self.runs.diff):
            a = np.asarray(probe.values[i])
            if k not in self.coordinates:
                few = 24 if self.runs.by == "forward" and not self.runs.iterates else 8
                self.coordinates[k] = self.rng.permutation(a.size)[:few]
            grad = np.full(a.size, np.nan, np.complex128 if a.dtype.kind == "c" else np.float64)
            bars = np.zeros(a.size)
            for element in self.coordinates[k]:
                slope, bars[element] = self._at(probe, i, element)
                grad[element] = slope if a.dtype.kind == "c" else slope.real
            scale = np.abs(grad[np.isfinite(grad)]).max(initial=0.0)
            grad[~(bars <= 0.05 * scale)] = np.nan
            self.bars[k] = float(bars[np.isfinite(grad)].max(initial=0.0))
            grads.append(grad.reshape(a.shape))
        return grads

    def _at(
        self, probe: Probe, i: int, element: int, shorter: float = 1.0
    ) -> tuple[complex, float]:
        """The derivative with respect to one element of a leaf, and a bound on its error.

        For a complex element it is g = D(1) - i D(i), with D the directional derivative; Re(g v)
        is the change along v.
        """
        a = np.asarray(probe.values[i])
        found, bar = 0j, 0.0
        for unit, factor in ((1.0, 1.0), (1j, -1j))[: 2 if a.dtype.kind == "c" else 1]:
            v = np.zeros(a.size, type(unit))
            v[element] = unit
            moves = {i: v.reshape(a.shape)}
            if self.runs.by == "forward":
                found += factor * forward_slope(self.runs, probe.values, probe.dys, moves)
                continue
            step = 0.02 * shorter * typical_size(a)
            slope, off = self.slope(probe.values, probe.dys, moves, step)
            found, bar = found + factor * slope, bar + off
        return found, bar


def typical_size(a: np.ndarray) -> float:
    """The root mean square of an array; 1 if it is zero or empty."""
    a = np.asarray(a, np.float64) if a.dtype.kind != "c" else np.abs(a)
    return float(np.sqrt((a**2).mean())) if a.size and np.any(a) else 1.0
