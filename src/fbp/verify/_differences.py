"""Derivatives without reverse-mode autodiff: differences of the function, or autodiff forwards."""

from typing import Any

import numpy as np

from fbp.verify._probes import Probe
from fbp.verify._runs import Pair, Runs


class Differences:
    """Derivatives of the function of some runs.

    Attributes:
      bars: by leaf, how far the last `gradients` may be off.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator) -> None:
        self.runs, self.rng = runs, rng
        self.coordinates: dict[int, np.ndarray] = {}
        self.bars = [0.0] * len(runs.diff)

    def value(self, values: list[Any], dys: list[Any]) -> float:
        """<dy, f(x)>."""
        out = self.runs.exact(values, dys).out
        return float(sum(np.real(np.vdot(d, o)) for d, o in zip(dys, out, strict=True)))

    def slope(
        self, values: list[Any], dys: list[Any], moves: dict[int, np.ndarray], step: float
    ) -> tuple[float, float]:
        """The derivative of <dy, f> along moves, and a bound of its error.

        Central differences with halved steps, extrapolated (Ridders); the bar is what the last
        extrapolations still differ by, doubled.
        """
        wide = self.runs.wide(values)

        def along(h: float) -> float:
            moved = list(wide)
            for j, v in moves.items():
                moved[j] = wide[j] + h * v
            return self.value(moved, dys)

        rows: list[list[float]] = []
        best, bar = np.nan, np.inf
        for n in range(6):
            h = step / 2**n
            row = [(along(h) - along(-h)) / (2 * h)]
            for m in range(1, n + 1):
                row.append(row[m - 1] + (row[m - 1] - rows[-1][m - 1]) / (4**m - 1))
                error = max(abs(row[m] - row[m - 1]), abs(row[m] - rows[-1][m - 1]))
                if error < bar:
                    best, bar = row[m], error
            rows.append(row)
        return best, 2 * bar

    def prefer_rule(self, probe: Probe, pair: Pair, k: int) -> bool:
        """Whether differences of the function agree with the rule, and not with its autodiff."""
        off = np.nan_to_num(pair.rule_grads[k] - pair.grads[k])
        if self.runs.holds_fixed:
            return False  # stop_gradient: autodiff leaves out on purpose what differences see
        i = self.runs.diff[k]
        if np.iscomplexobj(off) or not np.abs(off).max() > 0:
            return False
        v = off / np.abs(off).max()
        v /= np.sqrt((v**2).sum())
        size = typical_size(np.asarray(probe.values[i])) or 1.0
        step = size * min(1e-2, max(pair.margin / 8, 1e-5))
        slope, bar = self.slope(probe.values, probe.dys, {i: v}, step / max(np.abs(v).max(), 1e-9))
        rule, auto = (float((np.nan_to_num(g[k]) * v).sum()) for g in (pair.rule_grads, pair.grads))
        gap = abs(rule - auto)
        return bool(abs(slope - rule) + bar < 0.05 * gap)

    def gradients(self, probe: Probe) -> list[np.ndarray]:
        """The reference gradients at some elements, where autodiff has no reverse mode.

        By forward-mode autodiff where there is one, else by differences. NaN at the other elements,
        and where the error bar of a difference does not let it be told.
        """
        grads = []
        self.bars = [0.0] * len(self.runs.diff)
        for k, i in enumerate(self.runs.diff):
            a = np.asarray(probe.values[i])
            if k not in self.coordinates:
                few = 24 if self.runs.by == "forward" else 8
                self.coordinates[k] = self.rng.permutation(a.size)[:few]
            grad, bars = np.full(a.size, np.nan), np.zeros(a.size)
            for element in self.coordinates[k]:
                v = np.zeros(a.size)
                v[element] = 1.0
                moves = {i: v.reshape(a.shape)}
                if self.runs.by == "forward":
                    grad[element] = self.runs.slope(probe.values, probe.dys, moves)
                    continue
                step = 0.02 * (typical_size(a) or 1.0)
                grad[element], bars[element] = self.slope(probe.values, probe.dys, moves, step)
            scale = np.abs(grad[np.isfinite(grad)]).max(initial=0.0)
            grad[~(bars <= 0.05 * scale)] = np.nan
            self.bars[k] = float(bars[np.isfinite(grad)].max(initial=0.0))
            grads.append(grad.reshape(a.shape))
        return grads


def typical_size(a: np.ndarray) -> float:
    """The root mean square of an array; 1 where it is zero."""
    a = np.asarray(a, np.float64) if a.dtype.kind != "c" else np.abs(a)
    return float(np.sqrt((a**2).mean())) if a.size and np.any(a) else 1.0
