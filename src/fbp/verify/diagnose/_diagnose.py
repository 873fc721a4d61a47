"""Ranks the explanations of a wrong gradient: its leaf, a pattern, a term."""

from collections.abc import Iterator, Sequence

import numpy as np

from fbp.verify.diagnose._alterations import alterations
from fbp.verify.diagnose._factors import whole
from fbp.verify.diagnose._patterns import patterns
from fbp.verify.diagnose._scene import close, scene_of, sizes_of
from fbp.verify.diagnose._terms import Terms
from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# Ranks of the hints that are found by running the reference, the lowest first in the report.
# `_patterns` has the ranks of the others.
_OF_TERM, _OF_ALTERED = 1.5, 2.5


def diagnose(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    findings: list[Finding],
    search: bool = True,
) -> list[Hint]:
    """Explanations of the findings, the best first.

    Args:
      runs: the programs of the rule and of its reference.
      pairs: all probes and the gradients on each.
      findings: the findings to explain.
      search: whether to look for a wrong term, a wrong cotangent and a wrong input too.
    """
    is_wrong = any(f.verdict == "WRONG" for f in findings)
    # If a gradient is WRONG, the findings with other verdicts add little.
    plain = [_plain(runs, f) for f in findings if not is_wrong or f.verdict == "NONDETERMINISTIC"]
    ranked: list[tuple[float, Hint]] = [(-1.0, hint) for hint in plain if hint is not None]
    for finding in findings:
        if finding.verdict == "RANGE" and is_wrong:
            ranked.append((6.0, _plain(runs, finding)))  # type: ignore[arg-type]
    wrong: dict[int, Finding] = {}
    for finding in findings:
        if finding.verdict == "WRONG" and finding.leaf is not None:
            wrong.setdefault(finding.leaf, finding)
    for k, finding in wrong.items():
        known = np.isfinite(finding.pair.grads[k])
        if not np.isfinite(finding.pair.rule_grads[k]).all() or not known.any():
            continue
        if not known.all():
            path = runs.subject.leaves[runs.diff[k]].path
            got, want = (g[k][known] for g in (finding.pair.rule_grads, finding.pair.grads))
            sizes = sizes_of(runs, {})
            ranked += [(0.0, Hint(path, *says)) for says in whole(got, want, sizes, 1e-4)]
            continue
        # If nearly every element is wrong, a pattern is hardest to see: the probes with the most
        # right elements come first.
        telling = sorted(
            (f for f in findings if f.verdict == "WRONG" and f.leaf == k and f is not finding),
            key=lambda f: -_right_elements(f, k),
        )
        for one in (finding, *telling[: 2 if search else 0]):
            scene = scene_of(runs, pairs, one, k)
            if np.isfinite(scene.got).all() and np.isfinite(scene.want).all():
                later = 0.0 if one is finding else 2.0
                ranked += [(rank + later, hint) for rank, hint in patterns(scene)]
        if finding.pair.margin <= 1e-6 and not finding.probe.ordinary:
            ranked.append(
                (3.5, Hint(scene.leaf, "mask", "wrong only at a tie or kink of the input"))
            )
    by_probe: dict[str, list[int]] = {}
    for k, finding in wrong.items():
        by_probe.setdefault(finding.probe.name, []).append(k)
    for ks in by_probe.values() if runs.by == "reverse" else ():
        probe, pair = wrong[ks[0]].probe, wrong[ks[0]].pair
        unexplained = [k for k in ks if np.isfinite(pair.grads[k]).all()]
        if search:
            ranked += _altered(runs, pairs, probe, pair, unexplained)
            ranked += _terms(runs, probe, pair, unexplained)
    best: dict[tuple[str, str, str], float] = {}
    for rank, hint in ranked:
        key = (hint.leaf, hint.kind, hint.text)
        best[key] = min(rank, best.get(key, np.inf))
    hints = [Hint(*key) for key, _ in sorted(best.items(), key=lambda item: item[1])]
    return _one_of_each_kind(hints)


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
    return Hint(leaf, kind, finding.says)


def _altered(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    probe: Probe,
    pair: Pair,
    ks: list[int],
) -> Iterator[tuple[float, Hint]]:
    """Hints from the reference with altered cotangents or inputs."""
    for kind, text, values, dys in alterations(runs, pairs, probe):
        try:
            other = runs.exact(values, dys)
        except Exception:
            continue  # the reference does not take such input
        flips = [a for a in range(probe.dys[0].ndim) if text.endswith(f"dy flipped along axis {a}")]
        for k in ks:
            if flips and pair.grads[k].ndim > flips[0]:
                turned = np.flip(other.grads[k], flips[0])
                if close(pair.rule_grads[k], turned) and not close(turned, pair.grads[k]):
                    path = runs.subject.leaves[runs.diff[k]].path
                    says = f"drop: rev (flip) of dy and of the gradient along axis {flips[0]}"
                    yield _OF_TERM, Hint(path, "term", f"{says} reproduces it")
            if not other.grads or close(other.grads[k], pair.grads[k]):
                continue
            if close(pair.rule_grads[k], other.grads[k]):
                path = runs.subject.leaves[runs.diff[k]].path
                yield _OF_ALTERED, Hint(path, kind, f"{text} reproduces it")


def _terms(runs: Runs, probe: Probe, pair: Pair, ks: list[int]) -> Iterator[tuple[float, Hint]]:
    try:
        terms = Terms.of(runs)
    except Exception:
        return  # a program that cannot be evaluated with switches gives no hints
    leaves = {k: (pair.rule_grads[k], pair.grads[k]) for k in ks}
    for k, how, text in terms.explain(probe.values, probe.dys, leaves, sizes_of(runs, {})):
        path = runs.subject.leaves[runs.diff[k]].path
        scaled = 0.5 if how.startswith("scale") else 0.0
        yield _OF_TERM + scaled, Hint(path, "term", text)
