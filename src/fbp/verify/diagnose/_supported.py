"""Patterns of a wrong gradient that hold on other draws too."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from fbp.verify.diagnose._draws import fresh_pairs
from fbp.verify.diagnose._factors import whole
from fbp.verify.diagnose._patterns import patterns
from fbp.verify.diagnose._scene import Scene, scene_of, sizes_of
from fbp.verify.diagnose._where import holds
from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

_OF_TIES, _OF_SOME_TIES = 1.1, 3.5
# Added to the rank of a hint that holds on no other probe.
_UNSUPPORTED = 10.0


def supported(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    findings: list[Finding],
    finding: Finding,
    k: int,
    others: Sequence[tuple[Probe, Pair]],
) -> Iterator[tuple[float, Hint]]:
    """Hints from the wrong gradient of leaf k and the right one, side by side."""
    known = np.isfinite(finding.pair.grads[k])
    if not np.isfinite(finding.pair.rule_grads[k]).all() or not known.any():
        return
    if not known.all():
        path = runs.subject.leaves[runs.diff[k]].path
        got, want = (g[k][known] for g in (finding.pair.rule_grads, finding.pair.grads))
        yield from ((0.0, Hint(path, *says)) for says in whole(got, want, sizes_of(runs, {}), 1e-4))
        return
    elsewhere = []
    for probe, pair in others:
        scene = scene_of(runs, pairs, finding.at(probe, pair), k)
        elsewhere.append({_claim(hint) for _, hint in patterns(scene)})

    drawn: dict[int, list[Scene]] = {}

    def fresh(one: Finding) -> list[Scene]:
        """The other scenes of the leaf, and some of fresh draws."""
        if id(one) not in drawn:
            at = [*others, *fresh_pairs(runs, one)]
            scenes = [scene_of(runs, pairs, one.at(probe, pair), k) for probe, pair in at]
            drawn[id(one)] = [
                s for s in scenes if np.isfinite(s.got).all() and np.isfinite(s.want).all()
            ]
        return drawn[id(one)]

    # If nearly every element is wrong, a pattern is hardest to see: the probes with the most right
    # elements come first.
    telling = sorted(
        (f for f in findings if f.verdict == "WRONG" and f.leaf == k and f is not finding),
        key=lambda f: -_right_elements(f, k),
    )
    for one in (finding, *telling[: 2 if others else 0]):
        scene = scene_of(runs, pairs, one, k)
        if not (np.isfinite(scene.got).all() and np.isfinite(scene.want).all()):
            continue
        later = 0.0 if one is finding else 2.0
        for rank, hint in patterns(scene):
            if hint.kind == "mask" and holds(scene, hint.text):
                if all(holds(its, hint.text) for its in fresh(one)):
                    yield rank + later, hint
                continue
            support = [_claim(hint) in claims for claims in elsewhere]
            if hint.kind == "subset" and one.probe.ordinary and others:
                # Rows that are wrong by the values that they have are no explanation.
                support += [any(hint == its for _, its in patterns(s)) for s in fresh(one)]
                support = [all(support)]
            if support and not any(support):
                if hint.kind == "mask":
                    continue
                rank += _UNSUPPORTED
            yield rank + later, hint
    if finding.pair.margin <= 1e-6 and not finding.probe.ordinary:
        path = runs.subject.leaves[runs.diff[k]].path
        at_ties = all(f.pair.margin <= 1e-6 for f in [finding, *telling])
        said = "wrong only at a tie or kink of the input"
        yield _OF_TIES if at_ties else _OF_SOME_TIES, Hint(path, "mask", said)


def _claim(hint: Hint) -> tuple[str, str]:
    """A hint without the numbers that depend on the probe, except those of a condition."""
    if hint.kind == "mask":
        return hint.kind, hint.text
    return hint.kind, re.sub(r"-?[0-9]+\.[0-9e+-]+", "#", hint.text)


def _right_elements(finding: Finding, k: int) -> int:
    got, want = finding.pair.rule_grads[k], finding.pair.grads[k]
    return int((np.isclose(got, want, rtol=1e-6) & (want != 0)).sum())
