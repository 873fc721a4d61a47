"""Finds changes to the program of the reference that reproduce a wrong gradient.

The gradient is linear in the cotangent that flows through one place. With g(0) the reference and
g(1) the gradient with that cotangent dropped, the share of the place is g(0) - g(1). If the
residual (gradient minus reference) is a multiple of a share, that gives the place and the factor.
Otherwise it may be a combination of two shares.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify.diagnose._factors import name_of_factor
from fbp.verify.diagnose._scene import close
from fbp.verify.diagnose._switchboard import Place
from fbp.verify.diagnose._switches import Switched
from fbp.verify.program._compiled import quick
from fbp.verify.program._dtypes import is_complex
from fbp.verify.program._program import quoted
from fbp.verify.rule._derived import once
from fbp.verify.rule._runs import Runs

# At most this many places of a program are tried, the first ones.
_MOST = 400
# At most this many places of one line are changed at once.
_ALIKE = 40


class Terms:
    """The reference with switches, compiled once."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        program = runs.program
        if any(map(is_complex, runs.out_avals)):
            raise TypeError("complex outputs have no switches")

        def gradients(values: list[Any], dys: list[Any], switches: Any) -> Any:
            def f(values: list[Any]) -> list[Any]:
                return Switched(switches).run(program.jaxpr, program.consts, values)

            return runs.subject.pull(f, values, dys)[1]

        with jax.enable_x64(True):
            wide = runs.wide(runs.subject.values)
            listing = Switched()
            jax.eval_shape(lambda values: listing.run(program.jaxpr, program.consts, values), wide)
            self.places = listing.places[:_MOST]
            dys = [np.zeros(a.shape) for a in runs.out_avals]
            self.gradients = quick(gradients, wide, dys, np.zeros(len(self.places)))

    @classmethod
    def of(cls, runs: Runs) -> "Terms":
        """The switches of these runs, compiled once."""
        return once(runs, "terms", lambda: cls(runs))

    def explain(
        self,
        values: list[Any],
        dys: list[Any],
        leaves: dict[int, tuple[Any, Any]],
        sizes: dict[str, int],
        only: Sequence[Place] = (),
    ) -> list[tuple[int, str, str, list[Place]]]:
        """Changes that reproduce wrong gradients: (leaf, how, text, where).

        Args:
          values: the arguments.
          dys: the cotangents.
          leaves: by index among the differentiable leaves, (gradient by the rule, reference).
          sizes: sizes by name, in which factors are expressed.
          only: the places to change; all by default.
        """
        found: dict[tuple[int, str], list[Place]] = {}
        shares: dict[int, list[tuple[Place, Any]]] = {k: [] for k in leaves}
        together: list[tuple[int, str, str, list[Place]]] = []
        with jax.enable_x64(True):
            wide = self.runs.wide(values)
            for number, place in enumerate(self.places):
                for setting, says in place.settings if not only or place in only else ():
                    changed = self._changed(wide, dys, (number, setting))
                    for k, (got, want) in leaves.items():
                        how = _matches(got, want, changed[k], says, place, sizes)
                        if how:
                            found.setdefault((k, how), []).append(place)
                        elif place.kind == "operand" and says == "drop":
                            _add_share(shares[k], place, want - changed[k])
            named = {n for n, _ in found}
            for k, (got, want) in leaves.items():
                if k not in named:
                    pairs = _pairs(got - want, shares[k], sizes)
                    together += [(k, how, text, where) for how, text, where in pairs]
            alike = {k: v for k, v in leaves.items() if k not in {n for n, _ in found}}
            for k, how, where in self._alike(wide, dys, alike, only):
                found.setdefault((k, how), []).extend(where)
            two = {k: v for k, v in leaves.items() if k not in named}
            for k, how, place in self._constants(wide, dys, two) if two and not only else ():
                found.setdefault((k, how), []).append(place)
        alone = [(k, how, self._text(how, places), places) for (k, how), places in found.items()]
        return alone + together

    def _changed(self, wide: Any, dys: Any, *switches: tuple[int, float]) -> list[np.ndarray]:
        """The reference gradients with some switches set."""
        settings = np.zeros(len(self.places))
        for number, setting in switches:
            settings[number] = setting
        return jax.device_get(self.gradients(wide, dys, settings))

    def _alike(
        self, wide: Any, dys: Any, leaves: dict[int, tuple[Any, Any]], only: Sequence[Place]
    ) -> Iterator[tuple[int, str, list[Place]]]:
        """Changes at all places of one line of source that are alike, or at all of them but one."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, place in enumerate(self.places):
            for t, says in place.settings if place.source and (not only or place in only) else ():
                # Uses of one variable, and operations of one kind.
                for alike in {place.operand, place.what.split()[-1]} - {0}:
                    key = t, says, place.kind, place.source, alike
                    groups.setdefault(key, []).append(number)
        for (t, says, *_), numbers in groups.items() if leaves else ():
            if not 1 < len(numbers) <= _ALIKE:
                continue
            ways = [(numbers, f"each time {says}")]
            if len(numbers) > 2:
                ways.append((numbers[1:], f"all times but the first {says}"))
                ways.append((numbers[:-1], f"all times but the last {says}"))
            open_ones = dict(leaves)
            for those, how in ways:
                changed = self._changed(wide, dys, *((n, t) for n in those))
                for k, (got, want) in list(open_ones.items()):
                    if close(got, changed[k]) and not close(changed[k], want):
                        del open_ones[k]
                        yield k, how, [self.places[n] for n in numbers]

    def _constants(
        self, wide: Any, dys: Any, leaves: dict[int, tuple[Any, Any]]
    ) -> list[tuple[int, str, Place]]:
        """Two constants that both have to change, like 1 - s and s / n of label smoothing."""
        settings = [
            (number, t, says, place)
            for number, place in enumerate(self.places)
            if place.kind == "constant"
            for t, says in place.settings
            if says in ("drop", "replace by one")
        ][:16]
        found = []
        for (n, t, says, place), (m, u, its, other) in itertools.combinations(settings, 2):
            if n == m:
                continue
            changed = self._changed(wide, dys, (n, t), (m, u))
            for k, (got, want) in leaves.items():
                if close(got, changed[k]) and not close(changed[k], want):
                    found.append((k, f"{says} {place.what} and {its}", other))
        return found

    def _text(self, how: str, places: list[Place]) -> str:
        first = next((p for p in places if p.source), places[0])
        others = [p.what for p in places if p is not first]
        also = f" (the same: {'; '.join(dict.fromkeys(others))})" if others else ""
        return f"{how} {first.what}{quoted(first.source)} in the reference reproduces it{also}"[
            :400
        ]


def _matches(
    got: Any, want: Any, changed: Any, says: str, place: Place, sizes: dict[str, int]
) -> str:
    if not np.isfinite(changed).all() or close(changed, want):
        return ""
    if close(got, changed, max(np.abs(got).max(), 1e-3 * np.abs(want).max())):
        return says
    if place.kind == "operand" and says == "drop":
        share, off = want - changed, got - want
        factor = float(np.vdot(share, off) / max(np.vdot(share, share), 1e-300))
        if share.size > 1 and close(factor * share, off, np.abs(off).max()):
            if abs(factor + 2) < 1e-6:
                return "negate"
            return f"scale by {name_of_factor(1 + factor, sizes)}"
    return ""


def _add_share(shares: list[tuple[Place, Any]], place: Place, share: Any) -> None:
    size = np.abs(share).max(initial=0.0)
    is_known = any(close(share, other) for _, other in shares)
    if size > 0 and np.isfinite(size) and len(shares) < 40 and not is_known:
        shares.append((place, share))


def _pairs(
    off: Any, shares: list[tuple[Place, Any]], sizes: dict[str, int]
) -> Iterator[tuple[str, str, list[Place]]]:
    """Two places whose shares, each times a factor, sum to the residual.

    The residual must have six elements or more: two factors fit a smaller one too easily.
    """
    for i, (place, share) in enumerate(shares):
        for other, its in shares[:i]:
            system = np.stack([share.ravel(), its.ravel()], 1)
            if system.shape[0] < 6:
                return
            factors, *_ = np.linalg.lstsq(system, off.ravel(), rcond=1e-9)
            if not close(system @ factors, off.ravel(), np.abs(off).max()):
                continue
            hows = [_of_factor(f, sizes) for f in factors]
            parts = zip(hows, (place, other), strict=True)
            said = ", and ".join(f"{how} {p.what}{quoted(p.source)}" for how, p in parts)
            text = f"{said} in the reference: together they reproduce it"[:400]
            yield " and ".join(hows), text, [place, other]
            return


def _of_factor(factor: float, sizes: dict[str, int]) -> str:
    if abs(factor + 1) < 1e-6:
        return "drop"
    if abs(factor + 2) < 1e-6:
        return "negate"
    return f"scale by {name_of_factor(1 + factor, sizes)}"
