"""Ranks the explanations of a wrong gradient: its leaf, a pattern, a term."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.diagnose._factors import whole
from fbp.verify.diagnose._invariants import nonlinear, rows_of_dy
from fbp.verify.diagnose._patterns import patterns
from fbp.verify.diagnose._scene import Scene, scene_of, sizes_of
from fbp.verify.diagnose._searched import altered, terms_of
from fbp.verify.diagnose._where import holds
from fbp.verify.judge._findings import Finding
from fbp.verify.probe._draws import shuffled
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# Ranks of the hints that are found by running the programs, the lowest first in the report.
# `_patterns` and `_searched` have the ranks of the others.
_OF_INVARIANT, _OF_ROWS, _OF_TIES, _OF_SOME_ROWS = -0.5, 0.3, 0.9, 3.2
# Added to the rank of a hint that holds on no other probe.
_UNSUPPORTED = 10.0
# How many fresh draws a claim about single elements or rows has to hold on.
_DRAWS = 2


def diagnose(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    findings: list[Finding],
    search: bool = True,
) -> list[Hint]:
    """Explanations of the findings, the best first.

    An explanation found on one probe is tried on others where the gradient is wrong too: one that
    fails there is a coincidence of numbers.

    Args:
      runs: the programs of the rule and of its reference.
      pairs: all probes and the gradients on each.
      findings: the findings to explain.
      search: whether to look for a wrong term, a wrong cotangent and a wrong input too.
    """
    is_wrong = any(f.verdict == "WRONG" for f in findings)
    # If a gradient is WRONG, the findings with verdicts that are less severe add little.
    severe = ("STRUCTURE", "NONDETERMINISTIC")
    plain = [_plain(runs, f) for f in findings if not is_wrong or f.verdict in severe]
    ranked: list[tuple[float, Hint]] = [(-1.0, hint) for hint in plain if hint is not None]
    for finding in findings:
        if finding.verdict == "RANGE" and is_wrong:
            ranked.append((6.0, _plain(runs, finding)))  # type: ignore[arg-type]
    wrong: dict[int, Finding] = {}
    for finding in findings:
        if finding.verdict == "WRONG" and finding.leaf is not None:
            wrong.setdefault(finding.leaf, finding)
    others = {k: _others(pairs, finding, k) for k, finding in wrong.items()}
    for k, finding in wrong.items():
        ranked += _patterns(runs, pairs, findings, finding, k, others[k] if search else [])
    by_probe: dict[str, list[int]] = {}
    for k, finding in wrong.items():
        by_probe.setdefault(finding.probe.name, []).append(k)
    for ks in by_probe.values():
        probe, pair = wrong[ks[0]].probe, wrong[ks[0]].pair
        paths = {k: runs.subject.leaves[runs.diff[k]].path for k in ks}
        bent = dict(nonlinear(runs, probe.values, _full(pairs, probe), ks))
        ranked += [(_OF_INVARIANT, Hint(paths[k], "cotangent", bent[k])) for k in bent]
        unexplained = [k for k in ks if pair.grads and np.isfinite(pair.grads[k]).all()]
        if search and runs.by == "reverse":
            draws = [(probe.values, _full(pairs, probe))]
            draws += [_drawn(runs, probe.values, draws[0][1], seed) for seed in range(_DRAWS)]
            for k, text, is_all in rows_of_dy(
                runs, draws, [k for k in unexplained if k not in bent]
            ):
                # Where ordinary input is no fault, it is the values, and not the rows, that tell.
                rank = _OF_ROWS if is_all and probe.ordinary else _OF_SOME_ROWS
                ranked.append((rank, Hint(paths[k], "cotangent", text)))
        if search:
            ranked += altered(runs, pairs, probe, pair, unexplained, others)
        if search and runs.by == "reverse":
            ranked += terms_of(runs, probe, pair, unexplained, others)
    best: dict[tuple[str, str, str], float] = {}
    for rank, hint in ranked:
        key = (hint.leaf, hint.kind, hint.text)
        best[key] = min(rank, best.get(key, np.inf))
    hints = [Hint(*key) for key, _ in sorted(best.items(), key=lambda item: item[1])]
    return _one_of_each_kind(hints)


def _others(
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


def _drawn(
    runs: Runs, values: Sequence[Any], dys: Sequence[np.ndarray], seed: int
) -> tuple[list[Any], list[np.ndarray]]:
    """Fresh values and cotangents: the same numbers, those of each array in another order."""
    rng = np.random.default_rng(seed)
    fresh = list(values)
    for i in runs.diff:
        fresh[i] = shuffled(rng, np.asarray(values[i]))
    return fresh, [shuffled(rng, np.asarray(d)) * rng.choice([-1, 1], np.shape(d)) for d in dys]


def _full(pairs: Sequence[tuple[Probe, Pair]], probe: Probe) -> list[np.ndarray]:
    """The cotangents of a probe, or if they are all zero those of the first probe."""
    return probe.dys if any(np.any(d) for d in probe.dys) else pairs[0][0].dys


def _patterns(
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
            at = [*others, *_fresh_pairs(runs, one)]
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
        yield _OF_TIES if at_ties else 3.5, Hint(path, "mask", said)


def _fresh_pairs(runs: Runs, finding: Finding) -> Iterator[tuple[Probe, Pair]]:
    """The probe of a finding drawn anew, where the reference has a gradient."""
    for seed in range(_DRAWS):
        values, dys = _drawn(runs, finding.probe.values, finding.probe.dys, seed)
        pair = runs.exact(values, dys)
        if pair.grads:
            yield finding.probe._replace(values=values, dys=dys), pair


def _claim(hint: Hint) -> tuple[str, str]:
    """A hint without the numbers that depend on the probe, except those of a condition."""
    if hint.kind == "mask":
        return hint.kind, hint.text
    return hint.kind, re.sub(r"-?[0-9]+\.[0-9e+-]+", "#", hint.text)


def _right_elements(finding: Finding, k: int) -> int:
    got, want = finding.pair.rule_grads[k], finding.pair.grads[k]
    return int((np.isclose(got, want, rtol=1e-6) & (want != 0)).sum())


def _one_of_each_kind(hints: list[Hint]) -> list[Hint]:
    """The best hint of each kind first, so that the first few say different things."""
    seen: set[str] = set()
    first: list[Hint] = []
    rest: list[Hint] = []
    for hint in hints:
        (rest if hint.kind in seen else first).append(hint)
        seen.add(hint.kind)
    return first + rest


_KINDS = {
    "RANGE": "nonfinite",
    "PRECISION": "precision",
    "NONDETERMINISTIC": "random",
    "STRUCTURE": "structure",
    "VARIANT": "variant",
    "CONVENTION": "mask",
}


def _plain(runs: Runs, finding: Finding) -> Hint | None:
    """The hint for a finding whose verdict already explains it, or None."""
    kind = _KINDS.get(finding.verdict)
    if kind is None:
        return None
    leaf = "" if finding.leaf is None else runs.subject.leaves[runs.diff[finding.leaf]].path
    at = f" ({finding.probe.name})" if finding.verdict in ("RANGE", "PRECISION") else ""
    return Hint(leaf, kind, f"{finding.says}{at}")
