"""The arguments of a rule with one element more or less along an axis that all arrays have."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.probe import _draws
from fbp.verify.probe._kinds import kinds
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._program import trace
from fbp.verify.program._sizes import are_like, is_one_program
from fbp.verify.rule._derived import once
from fbp.verify.rule._plain import plain_program
from fbp.verify.rule._rule import traced_rule
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject

# Sizes that are changed together, each with the size it becomes.
Change = dict[int, int]


class Trial(NamedTuple):
    """A change of sizes that a function takes.

    Attributes:
      change: the sizes.
      same: whether the programs are those of the given sizes, but for the sizes: then there is
        nothing to run.
    """

    change: Change
    same: bool


def shared_sizes(subject: Subject) -> list[int]:
    """The sizes that some axis of each array has; scalars have no say."""
    values = subject.values
    if any(map(is_key, values)):
        return []
    arrays = [v for v in values if v.ndim]
    held = {n for i, kind in kinds(values).items() if kind != "ascending" for n in values[i].shape}
    first = dict.fromkeys(arrays[0].shape if arrays else ())
    return [n for n in first if n > 1 and n not in held and all(n in v.shape for v in arrays)]


def resized(subject: Subject, change: Change) -> Subject:
    """The subject with axes that are one shorter or longer; what is added is like the last.

    Raises:
      ValueError: no arguments of these sizes are in its domain.
    """
    rng = np.random.default_rng(0)
    values = [_resized(rng, leaf.value, change) for leaf in subject.leaves]
    inside = subject.inside(values, values)
    if inside is None:
        raise ValueError("nothing of these sizes is in the domain")
    leaves = tuple(
        dataclasses.replace(leaf, value=np.asarray(v).astype(leaf.value.dtype))
        for leaf, v in zip(subject.leaves, inside, strict=True)
    )
    return dataclasses.replace(subject, leaves=leaves)


def trials(runs: Runs, reference: Subject | None) -> list[Trial]:
    """All shared sizes one smaller and one larger; each alone, if not all can be changed."""

    def found() -> list[Trial]:
        shared = shared_sizes(runs.subject)
        together = _trials(runs, reference, shared) if shared else []
        if together or len(shared) < 2:
            return together
        return [trial for n in shared[:2] for trial in _trials(runs, reference, [n])]

    return once(runs, "sizes", found)


def _trials(runs: Runs, reference: Subject | None, sizes: list[int]) -> list[Trial]:
    """What can be tried of these sizes: nothing, if the function raises, or its outputs are odd."""
    changes = [{n: n + step for n in sizes} for step in (-1, 1)]
    traced: list[tuple[Change, list[ClosedJaxpr]]] = []
    for change in changes:
        try:
            other = resized(runs.subject, change)
            ref = None if reference is None else resized(reference, change).f
            traced.append((change, _programs(runs, other, ref)))
        except Exception:
            continue  # it is not for these sizes
    if len(traced) < 2:
        return [Trial(change, False) for change, _ in traced]
    each = list(zip(traced[0][1], (runs.plain, runs.rule), traced[1][1], strict=True))
    if not all(are_like(programs, sizes) for programs in each):
        return []
    if all(is_one_program(programs, sizes, runs.plain) for programs in each):
        return [Trial(change, True) for change in changes]
    return [Trial(changes[1], False)]


def _programs(runs: Runs, subject: Subject, reference: Any) -> list[ClosedJaxpr]:
    """The function without its rules and the rule, in the working dtype."""
    values = runs.narrow(subject.values)
    program = trace(subject.f, values)
    dys = [np.zeros(a.shape, a.dtype) for a in filter(is_float, program.out_avals)]
    plain = plain_program(subject, program, reference, values)
    return [plain, traced_rule(subject, values, dys)]


def _resized(rng: np.random.Generator, a: Any, change: Change) -> np.ndarray:
    a = np.asarray(a)
    is_share = is_float(a) and a.dtype.kind == "f" and _draws.is_distribution(a)
    for axis, n in enumerate(a.shape):
        size = change.get(n, n)
        if size <= n:
            a = np.take(a, range(size), axis)
            continue
        last = np.take(a, [n - 1], axis)
        if is_float(a):
            new = last.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
            last = _draws.near(rng, new).astype(a.dtype)
        a = np.concatenate([a, last], axis)
    return (a / a.sum(-1, keepdims=True)).astype(a.dtype) if is_share else a
