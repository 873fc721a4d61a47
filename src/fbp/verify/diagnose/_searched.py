"""Hints from running the reference again, with something in it changed.

A change counts if it reproduces the wrong gradient on the probe where it was found, and on another
one where the leaf is wrong.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fbp.verify.diagnose._alterations import alterations
from fbp.verify.diagnose._scene import close, sizes_of
from fbp.verify.diagnose._terms import Terms
from fbp.verify.judge._differences import Differences
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._derived import derivative_along
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs

# Ranks among all hints: see `_diagnose`.
_OF_TERM, _OF_TRANSPOSED, _OF_ALTERED, _OF_FLIP = 1.5, 1.9, 2.5, 2.6
_LATER = {"comparison": 0.05, "choice": 0.05, "constant": 0.2}
# The elements of all leaves up to which a change is tried where each costs a run.
_MOST_FORWARD = 32


def _elements(runs: Runs) -> int:
    return sum(runs.subject.leaves[i].value.size for i in runs.diff)


def altered(
    runs: Runs,
    pairs: Sequence[tuple[Probe, Pair]],
    probe: Probe,
    pair: Pair,
    ks: list[int],
    others: dict[int, list[tuple[Probe, Pair]]],
) -> Iterator[tuple[float, Hint]]:
    """Hints from the reference with altered cotangents or inputs."""
    if runs.by == "differences" or (runs.by == "forward" and _elements(runs) > _MOST_FORWARD):
        return  # each change would cost a run for each element
    again: dict[str, dict[str, tuple[Any, Any]]] = {}

    def holds_elsewhere(k: int, text: str, flip: int | None = None) -> bool:
        """Whether the same change reproduces the gradient on another probe, if there is one."""
        for second, its in others[k][:1]:
            if second.name not in again:
                again[second.name] = {
                    says: (values, dys) for _, says, values, dys in alterations(runs, pairs, second)
                }
            change = again[second.name].get(text)
            if change is None:
                return False
            grad = reference(*change)[k]
            return close(its.rule_grads[k], grad if flip is None else np.flip(grad, flip))
        return True

    differences = Differences(runs, np.random.default_rng(0))

    def reference(values: list[Any], dys: list[Any]) -> list[Any]:
        grads = runs.exact(values, dys).grads
        if runs.by == "reverse":
            return grads
        return differences.gradients(probe._replace(values=values, dys=dys))

    for k in ks:
        both = [(probe, pair), *others[k][:1]]
        if all(_is_untransposed(runs, each, its, k) for each, its in both):
            says = "transpose: the Jacobian of the function stands where its transpose belongs"
            yield _OF_TRANSPOSED, Hint(runs.subject.leaves[runs.diff[k]].path, "term", says)
    for kind, text, values, dys in alterations(runs, pairs, probe):
        try:
            other = reference(values, dys)
        except Exception:
            continue  # the reference does not take such input
        flips = [a for a in range(probe.dys[0].ndim) if text.endswith(f"dy flipped along axis {a}")]
        for k in ks:
            if flips and pair.grads[k].ndim > flips[0]:
                turned = np.flip(other[k], flips[0])
                fits = close(pair.rule_grads[k], turned) and not close(turned, pair.grads[k])
                if fits and holds_elsewhere(k, text, flips[0]):
                    path = runs.subject.leaves[runs.diff[k]].path
                    says = f"drop: rev (flip) of dy and of the gradient along axis {flips[0]}"
                    yield _OF_FLIP, Hint(path, "term", f"{says} reproduces it")
            if not other or close(other[k], pair.grads[k]):
                continue
            if close(pair.rule_grads[k], other[k]) and holds_elsewhere(k, text):
                path = runs.subject.leaves[runs.diff[k]].path
                yield _OF_ALTERED, Hint(path, kind, f"{text} reproduces it")


def _is_untransposed(runs: Runs, probe: Probe, pair: Pair, k: int) -> bool:
    """Whether a gradient is J dy and not J^T dy, J square and not symmetric."""
    i, got = runs.diff[k], pair.rule_grads[k]
    if len(probe.dys) != 1 or probe.dys[0].shape != got.shape or got.dtype.kind == "c":
        return False
    try:
        (along,) = derivative_along(runs, probe.values, {i: probe.dys[0]})
    except Exception:
        return False  # no forward derivative
    return close(got, along) and not close(pair.grads[k], along)


def terms_of(
    runs: Runs,
    probe: Probe,
    pair: Pair,
    ks: list[int],
    others: dict[int, list[tuple[Probe, Pair]]],
) -> Iterator[tuple[float, Hint]]:
    """The reference with one term of its program changed."""
    try:
        terms = Terms.of(runs)
    except Exception:
        return  # a program that cannot be evaluated with switches gives no hints
    leaves = {k: (pair.rule_grads[k], pair.grads[k]) for k in ks}
    sizes = sizes_of(runs, {})
    found = terms.explain(probe.values, probe.dys, leaves, sizes)
    for k, how, text, places in found:
        for second, its in others[k][:1]:
            leaf = {k: (its.rule_grads[k], its.grads[k])}
            again = terms.explain(second.values, second.dys, leaf, sizes, places)
            if not any(says == how for _, says, *_ in again):
                break
        else:
            path = runs.subject.leaves[runs.diff[k]].path
            # What is left out is likelier than a constant or a comparison that is another.
            later = 0.5 if how.startswith("scale") else 0.0
            later = max(later, *(_LATER.get(place.kind, 0.0) for place in places))
            yield _OF_TERM + later, Hint(path, "term", text)
