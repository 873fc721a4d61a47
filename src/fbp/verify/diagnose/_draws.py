"""The draws on which an explanation is tried: other probes, and fresh values."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.judge._findings import Finding
from fbp.verify.probe._draws import shuffled
from fbp.verify.probe._probes import Probe
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# How many fresh draws a claim about single elements or rows has to hold on.
DRAWS = 2


def others_of(
    pairs: Sequence[tuple[Probe, Pair]], finding: Finding, k: int
) -> list[tuple[Probe, Pair]]:
    """Two more probes, ordinary ones first, on which leaf k is wrong, and not for a kink."""
    found = []
    for probe, pair in sorted(pairs, key=lambda pair: not pair[0].ordinary):
        if probe is finding.probe or not pair.grads or pair.margin <= 1e-6:
            continue
        got, want = pair.rule_grads[k], pair.grads[k]
        if not (np.isfinite(got).all() and np.isfinite(want).all()):
            continue
        if np.abs(got - want).max(initial=0.0) > 1e-6 * np.abs(want).max(initial=0.0):
            found.append((probe, pair))
    return found[:2]


def drawn(
    runs: Runs, values: Sequence[Any], dys: Sequence[np.ndarray], seed: int
) -> tuple[list[Any], list[np.ndarray]]:
    """Fresh values and cotangents: the same numbers, those of each array in another order.

    A function that iterates keeps its values: with others its loop may not end.
    """
    rng = np.random.default_rng(seed)
    fresh = list(values)
    for i in [] if runs.iterates else runs.diff:
        fresh[i] = shuffled(rng, np.asarray(values[i]))
    return fresh, [shuffled(rng, np.asarray(d)) * rng.choice([-1, 1], np.shape(d)) for d in dys]


def not_zero(pairs: Sequence[tuple[Probe, Pair]], probe: Probe) -> list[np.ndarray]:
    """The cotangents of a probe, or if they are all zero those of the first probe."""
    return probe.dys if any(np.any(d) for d in probe.dys) else pairs[0][0].dys


def fresh_pairs(runs: Runs, finding: Finding) -> Iterator[tuple[Probe, Pair]]:
    """The probe of a finding drawn anew, where the reference has a gradient."""
    for seed in range(DRAWS):
        values, dys = drawn(runs, finding.probe.values, finding.probe.dys, seed)
        pair = runs.exact(values, dys)
        if pair.grads:
            yield finding.probe._replace(values=values, dys=dys), pair
