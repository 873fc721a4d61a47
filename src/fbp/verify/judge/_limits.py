"""One-sided limits of the gradient around a point."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbp.verify.judge._bounds import AT_KINK
from fbp.verify.judge._differences import Differences, typical_size
from fbp.verify.judge._hull import in_hull
from fbp.verify.probe._probes import Probe
from fbp.verify.program._numbers import largest
from fbp.verify.rule._derived import one_sided_gradients
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

STEP = 1e-7


class Limits:
    """Runs the reference at points near a probe.

    At a kink the rule may return any convex combination of the gradient's limits. Many kinks at
    once have too many limits to compute, so the point is first moved to where few are left.
    """

    def __init__(self, runs: Runs, rng: np.random.Generator) -> None:
        self.runs = runs
        # Its own stream, so that the numbers drawn for probes do not depend on findings.
        self.rng = np.random.default_rng(rng.integers(2**32))
        self.differences = Differences(runs, self.rng)
        self._aside: tuple[Probe, tuple[Probe, Pair]] | None = None

    def at_kink(
        self, probe: Probe, pair: Pair, k: int, got: np.ndarray, judged: Sequence[int]
    ) -> str | None:
        """The choice a rule makes at a kink, in words; "" if it has none; None if it is wrong.

        The gradients of all `judged` leaves, of which k is one, have to make the same choice.
        """
        tolerance = max(1e-4, self.runs.subject.accuracy)
        off = np.abs(got - pair.grads[k])
        off = np.where(np.isnan(off), largest(got), off)  # not known by differences
        wrong = np.flatnonzero(off.ravel() > 1e-9 * (np.nanmax(np.abs(pair.grads[k])) + off.max()))
        if not wrong.size:
            return ""
        said, step = "", STEP if self.runs.by == "reverse" else 100 * STEP
        for element in map(int, self.rng.permutation(wrong)[:3]):
            for most in (1, 2, 3):
                values, tied = self._alone(probe, k, element, off.ravel(), most)
                there = self.runs.exact(values, probe.dys)
                rule = there.rule_grads[k].ravel()
                around: list[list[np.ndarray]] = []
                # Each round may find limits that the rounds before it did not.
                for _ in range(4):
                    around += self.around(values, probe, step, (1, 6, 12)[most - 1], tied)
                    if not around:
                        continue
                    limits = np.stack([grads[k].ravel() for grads in around])
                    is_one = not np.isfinite(limits).all() or (
                        in_hull(rule, limits, tolerance)
                        and in_hull(*_together(there, around, judged), tolerance)
                    )
                    if is_one or not np.isfinite(rule).all():
                        break
                if not around:
                    return None
                if not np.isfinite(limits).all():
                    continue
                if not is_one:
                    return None
                low, high = limits[:, element].real.min(), limits[:, element].real.max()
                if high - low > 1e-3 * max(abs(low), abs(high)) and not said:
                    where = list(map(int, np.unravel_index(element, got.shape)))
                    x = np.asarray(values[self.runs.diff[k]])[tuple(where)]
                    said = (
                        f"at the kink {self.name(k)}{where if where else ''} = {x:.4g} takes "
                        f"{rule[element]:.4g} of [{low:.4g}, {high:.4g}]"
                    )
                    if self.runs.by == "reverse":
                        said += f"; autodiff takes {pair.grads[k].ravel()[element]:.4g}"
        return said

    def is_one_sided(self, probe: Probe, pair: Pair, k: int, got: np.ndarray) -> bool:
        """Whether each element is between the reference's values with ties broken to either side.

        For ties that no move of the input breaks, such as those of a rounded value with a bound,
        and for whole programs.
        """
        if self.runs.by != "reverse":
            return False
        if not self.runs.subject.is_whole and not self._stays_tied(probe):
            return False
        sides = [pair.grads[k], *(side[k] for side in self._sides(probe))]
        low, high = np.min(sides, 0), np.max(sides, 0)
        size = max(np.abs(low).max(initial=0.0), np.abs(high).max(initial=0.0))
        slack = max(1e-6, self.runs.subject.accuracy) * size
        return bool(((low - slack <= got) & (got <= high + slack)).all())

    def _stays_tied(self, probe: Probe) -> bool:
        """Whether a move beside a probe, or a smaller one, leaves some ties as they are.

        A rounded value stays where it is until the move crosses a step.
        """
        if self.aside(probe).margin <= AT_KINK:
            return True
        for _ in range(3):
            values = list(probe.values)
            for i in self.runs.diff:
                values[i] = self._moved(np.asarray(values[i]), 1e-3)
            if self.runs.exact(self._inside(values, probe), probe.dys).margin <= AT_KINK:
                return True
        return False

    def _sides(self, probe: Probe) -> list[list[np.ndarray]]:
        return one_sided_gradients(self.runs, probe.values, probe.dys)

    def aside(self, probe: Probe) -> Pair:
        """The results of the runs beside a probe, where its ties are broken."""
        return self.beside(probe)[1]

    def beside(self, probe: Probe) -> tuple[Probe, Pair]:
        """A probe beside another, where its ties are broken, and its results."""
        if self._aside is None or self._aside[0] is not probe:
            values = list(probe.values)
            for i in self.runs.diff:
                values[i] = self._moved(np.asarray(values[i]))
            values = self._inside(values, probe)
            pair, there = self.runs.exact(values, probe.dys), probe._replace(values=values)
            if not pair.grads:
                pair = pair._replace(grads=self.differences.gradients(there))
            self._aside = probe, (there, pair)
        return self._aside[1]

    def _moved(self, a: np.ndarray, step: float = 0.02) -> np.ndarray:
        wide = a if a.dtype.kind == "c" else a.astype(np.float64)
        noise = self.rng.normal(size=a.shape)
        if a.dtype.kind == "c":
            noise = noise + 1j * self.rng.normal(size=a.shape)
        return wide + step * typical_size(a) * noise

    def _alone(
        self, probe: Probe, k: int, element: int, off: np.ndarray, most: int
    ) -> tuple[list[Any], dict[int, np.ndarray]]:
        """The probe with all values moved but one element and up to `most - 1` equal to it.

        Those off by the same amount are kept first: what a tie adds to one element's gradient it
        takes from another's. Also returns a mask of the elements that are kept, for each leaf.
        """
        i = self.runs.diff[k]
        x = np.asarray(probe.values[i])
        tied = (x == x.ravel()[element]).ravel()
        if x.ndim > 1:
            row = np.arange(x.size) // x[0].size
            tied &= row == row[element]
        unlike = np.abs(off - off[element]) > 1e-6 * off[element]
        distance = np.abs(np.arange(x.size) - element)
        nearest = np.lexsort((distance, unlike, distance > 0))
        tied[[n for n in nearest if tied[n]][most:]] = False
        values, kept = list(probe.values), {}
        for j in self.runs.diff:
            a = np.asarray(values[j])
            moved = self._moved(a)
            keep = np.zeros(a.size, bool)
            if j == i:
                keep = tied
            elif a.shape == x.shape:
                keep[element] = a.ravel()[element] == x.ravel()[element]
            kept[j] = keep.reshape(a.shape)
            values[j] = np.where(kept[j], a.astype(moved.dtype), moved)
        return self._inside(values, probe), kept

    def _inside(self, values: list[Any], probe: Probe) -> list[Any]:
        """Values beside a probe, in the domain of the function."""
        return self.runs.subject.inside(values, probe.values) or list(probe.values)

    def around(
        self,
        values: list[Any],
        probe: Probe,
        step: float,
        directions: int,
        moving: dict[int, np.ndarray] | None = None,
    ) -> list[list[np.ndarray]]:
        """Reference gradients at points nearby, forwards and backwards along random directions.

        Without autodiff they are the rule's, at the points where differences confirm these.
        """
        found = []
        size = max(typical_size(np.asarray(values[j])) for j in self.runs.diff)
        wide = self.runs.wide(values)
        for n in range(directions):
            moves = {
                j: step * size * self.rng.normal(size=np.shape(values[j]))
                for j in self.runs.diff
                if moving is None or moving[j].any()
            }
            if moving is not None:
                # Every combination of signs, so that no side of the kinks is missed.
                moves = {j: _signed(move, moving[j], n) for j, move in moves.items()}
            for sign in (1, -1):
                beside = list(wide)
                for j, move in moves.items():
                    beside[j] = wide[j] + sign * move
                beside = self.runs.subject.inside(beside, wide) or wide
                pair, there = self.runs.exact(beside, probe.dys), probe._replace(values=beside)
                if self.runs.by == "forward":
                    found.append(self.differences.gradients(there))
                elif pair.grads:
                    found.append(pair.grads)
                elif self.differences.confirm(there, pair, step / 100):
                    # Differences of each element would take many runs.
                    found.append(pair.rule_grads)
        return found

    def name(self, k: int) -> str:
        return self.runs.subject.leaves[self.runs.diff[k]].path


def _together(
    there: Pair, around: list[list[np.ndarray]], judged: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The judged gradients and their limits, finite leaves only, each leaf scaled, as vectors.

    A leaf of which both the rule and autodiff take no limit, as autodiff may, is left out.
    """
    points, limits = [], []
    for k in judged:
        mine = there.rule_grads[k]
        beside = np.stack([grads[k].ravel() for grads in around])
        scale = max(np.abs(beside).max(initial=0.0), np.abs(mine).max(initial=0.0))
        if not (np.isfinite(scale) and scale > 0):
            continue
        point, limit = mine.ravel() / scale, beside / scale
        is_autodiff = bool(there.grads) and largest(there.grads[k] - mine) <= 1e-9 * scale
        if is_autodiff and not in_hull(point, limit, 1e-4):
            continue
        points.append(point)
        limits.append(limit)
    if not points:
        return np.zeros(0), np.zeros((len(around), 0))
    return np.concatenate(points), np.concatenate(limits, 1)


def _signed(move: np.ndarray, moving: np.ndarray, n: int) -> np.ndarray:
    """The moving elements of a move, with the n-th combination of signs; the first is always +."""
    signed = np.zeros(move.shape)
    places = np.flatnonzero(moving)
    bits = (n >> np.arange(len(places))) & 1
    bits = np.roll(bits, 1) if len(places) > 1 else bits * 0
    bits[:1] = 0
    signed.flat[places] = np.abs(move.flat[places]) * np.where(bits, -1, 1)
    return signed
