"""Ranks the explanations of a wrong gradient: its leaf, a pattern, a term."""

from collections.abc import Iterator, Sequence

import numpy as np

from fbp.verify.diagnose._draws import DRAWS, drawn, not_zero, others_of
from fbp.verify.diagnose._invariants import nonlinear, rows_of_dy
from fbp.verify.diagnose._searched import altered, terms_of
from fbp.verify.diagnose._supported import supported
from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# Ranks of the hints that are found by running the programs, the lowest first in the report.
# `_patterns`, `_supported` and `_searched` have the ranks of the others.
_OF_INVARIANT, _OF_ROWS, _OF_SOME_ROWS = -0.5, 1.2, 3.2


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
    others = {k: others_of(pairs, finding, k) for k, finding in wrong.items()}
    for k, finding in wrong.items():
        ranked += supported(runs, pairs, findings, finding, k, others[k] if search else [])
    ranked += _searched(runs, pairs, wrong, others, search)
    best: dict[tuple[str, str, str], float] = {}
    for rank, hint in ranked:
        key = (hint.leaf, hint.kind, hint.text)
        best[key] = min(rank, best.get(key, np.inf))
    hints = [Hint(*key) for key, _ in sorted(best.items(), key=lambda item: item[1])]
    return _one_of_each_kind(hints)


def _searched(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    wrong: dict[int, Finding],
    others: dict[int, list[tuple[Probe, Pair]]],
    search: bool,
) -> Iterator[tuple[float, Hint]]:
    """Hints from running the programs again, at once for all leaves wrong on one probe."""
    by_probe: dict[str, list[int]] = {}
    for k, finding in wrong.items():
        by_probe.setdefault(finding.probe.name, []).append(k)
    for ks in by_probe.values():
        probe, pair = wrong[ks[0]].probe, wrong[ks[0]].pair
        paths = {k: runs.subject.leaves[runs.diff[k]].path for k in ks}
        bent = dict(nonlinear(runs, probe.values, not_zero(pairs, probe), ks))
        yield from ((_OF_INVARIANT, Hint(paths[k], "cotangent", bent[k])) for k in bent)
        unexplained = [k for k in ks if pair.grads and np.isfinite(pair.grads[k]).all()]
        if search and runs.by == "reverse":
            draws = [(probe.values, not_zero(pairs, probe))]
            draws += [drawn(runs, probe.values, draws[0][1], seed) for seed in range(DRAWS)]
            straight = [k for k in unexplained if k not in bent]
            for k, text, is_all in rows_of_dy(runs, draws, straight):
                # Where ordinary input is no fault, it is the values, and not the rows, that tell.
                rank = _OF_ROWS if is_all and probe.ordinary else _OF_SOME_ROWS
                yield rank, Hint(paths[k], "cotangent", text)
        if search:
            yield from altered(runs, pairs, probe, pair, unexplained, others)
        if search and runs.by == "reverse":
            yield from terms_of(runs, probe, pair, unexplained, others)


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
