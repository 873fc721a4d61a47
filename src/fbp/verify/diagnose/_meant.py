"""How to declare a gradient that differs from the derivative on purpose."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify.judge._findings import Finding
from fbp.verify.probe._probes import Probe
from fbp.verify.report._card import Hint
from fbp.verify.rule._pair import Pair
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject


def meant(
    runs: Runs, pairs: Sequence[tuple[Probe, Pair]], findings: Sequence[Finding]
) -> list[Hint]:
    """For wrong gradients that may be meant so, what the check has to be told.

    A gradient that is zero at every input may be that of an argument which is held fixed; one that
    is not, of a function that is flat, that of a straight-through rule.
    """
    if runs.subject.is_call:
        return []  # a call inside a program, of which the user has no arguments
    wrong = {f.leaf for f in findings if f.verdict == "WRONG" and f.leaf is not None}
    zero = {k for k in wrong if _vanishes([pair.rule_grads[k] for _, pair in pairs])}
    hints = []
    for k in sorted(wrong):
        path = runs.subject.leaves[runs.diff[k]].path
        if k in zero:
            others = _other_arguments(runs.subject, {runs.diff[i] for i in zero})
            either = f"with argnums={others}, or " if others else ""
            text = (
                "the rule gives it no gradient, but the function depends on it; if that is meant, "
                f"say so {either}with jax.lax.stop_gradient({path}) in a reference="
            )
            hints.append(Hint(path, "zero", text))
        elif _vanishes([pair.grads[k] for _, pair in pairs if pair.grads]):
            text = (
                "the function is flat in it, but the rule gives it a gradient; if that is meant, "
                "as in a straight-through rule, say of which function in a reference="
            )
            hints.append(Hint(path, "zero", text))
    return hints


def _vanishes(grads: Sequence[np.ndarray]) -> bool:
    return bool(grads) and not any(np.nan_to_num(g).any() for g in grads)


def _other_arguments(subject: Subject, leaves: set[int]) -> tuple[int, ...]:
    """The arguments to differentiate without some leaves; () if argnums cannot tell them apart."""
    if hasattr(subject.original, "backward") or hasattr(subject.original, "value_and_grad"):
        return ()
    marks: list[Any] = [object() for _ in subject.leaves]
    place = {id(mark): i for i, mark in enumerate(marks)}
    held = [
        {place[id(leaf)] for leaf in jax.tree.leaves(argument) if id(leaf) in place}
        for argument in subject.arguments(marks)
    ]
    held = [places & set(subject.differentiable) for places in held]
    if any(places & leaves and places - leaves for places in held):
        return ()
    return tuple(n for n, places in enumerate(held) if places - leaves)
