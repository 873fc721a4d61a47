"""The inputs and cotangents that a rule is tried on: ordinary ones, and edge cases."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fbp.verify.probe import _draws
from fbp.verify.probe._kinds import kinds, partners, redrawn
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._thresholds import special_integers, thresholds, thresholds_of
from fbp.verify.rule._runs import Runs


class Probe(NamedTuple):
    """The inputs and cotangents of one run of a rule and its reference.

    Attributes:
      name: what is special about it.
      values: arrays for all leaves.
      dys: the cotangents.
      ordinary: whether its values have the size and kind of the given ones.
      outside: whether it holds integers outside the range of the given ones.
      extreme: whether the size of its values is very different from the given ones.
      of_integers: whether its integers and masks differ from the given ones.
      as_given: whether its values are the given ones.
    """

    name: str
    values: list[Any]
    dys: list[np.ndarray]
    ordinary: bool = False
    outside: bool = False
    extreme: bool = False
    of_integers: bool = False
    as_given: bool = False


def probes(runs: Runs, rng: np.random.Generator, cotangent: Any, fast: bool) -> Iterator[Probe]:
    """Yields the probes for a rule that are in its domain, the most informative first.

    Args:
      runs: the programs of the rule.
      rng: the source of random numbers.
      cotangent: the cotangents of the first probe, or None to draw them.
      fast: whether to leave out about half of the probes.
    """
    drawn = _drawn(runs, rng, cotangent, fast)
    return drawn if runs.subject.domain is None else _inside(runs, drawn)


def _inside(runs: Runs, drawn: Iterator[Probe]) -> Iterator[Probe]:
    """The probes moved into the declared domain, without those that cannot be."""
    subject, domain = runs.subject, runs.subject.domain
    assert domain is not None
    # Probes that share their values go on sharing them.
    moved: dict[int, tuple[list[Any], list[Any] | None]] = {}
    for probe in drawn:
        if id(probe.values) not in moved:
            new = domain.inside(probe.values, subject.values)
            if new is not None and domain.has(rounded := runs.narrow(new), 1e-12):
                new = rounded
            # Else the working dtype has no such values: unit vectors, say, are so in float64 only.
            moved[id(probe.values)] = probe.values, new
        values = moved[id(probe.values)][1]
        if values is not None:
            yield probe._replace(values=values)


def _drawn(runs: Runs, rng: np.random.Generator, cotangent: Any, fast: bool) -> Iterator[Probe]:
    given = list(runs.subject.values)
    shapes = [a.shape for a in runs.out_avals]
    is_complex = [np.dtype(a.dtype).kind == "c" for a in runs.out_avals]

    def normal() -> list[np.ndarray]:
        return [_draws.normal(rng, s, c) for s, c in zip(shapes, is_complex, strict=True)]

    yield Probe("as given", given, cotangent or normal(), True, as_given=True)
    near = _of_floats(runs, given, lambda a: _draws.near(rng, a))
    yield Probe("near what was given", near, normal(), True)
    if not fast:
        floats = _of_floats(runs, given, lambda a: _draws.shuffled(rng, a))
        mix = functools.partial(_draws.changed, rng, "shuffle")
        mixed = _integers(runs, floats, rng, "shuffle", mix)
        yield Probe("shuffled", mixed or floats, normal(), True)
    yield Probe("zero cotangent", near, [np.zeros(s) for s in shapes])
    yield Probe("one-hot cotangent", near, [_draws.one_hot(rng, s) for s in shapes])
    yield Probe("large cotangent", near, [1e3 * d for d in normal()])
    if len(shapes) > 1:
        for i in range(len(shapes)):
            one = [d if i == j else np.zeros_like(d) for j, d in enumerate(normal())]
            yield Probe(f"cotangent of output {i} alone", near, one)
    rows = _of_floats(runs, given, lambda a: _draws.mosaic(rng, a))
    yield Probe("rows zero, constant, large and small", rows, normal(), extreme=True)
    points = thresholds(runs.program)
    for name, values in _at_thresholds(runs, near):
        yield Probe(name, values, normal())
    if points:
        at = _of_floats(runs, given, lambda a: _draws.at_points(rng, a, points))
        yield Probe("at and around its thresholds", at, normal())
    yield Probe("rounded to ties", _of_floats(runs, given, _draws.ties), normal())
    if 0.0 in points and any(_draws.one_sign(np.asarray(given[i])) for i in runs.diff):
        # The function compares something with 0, so 0 is taken to be in its domain.
        zeros = _of_floats(runs, given, lambda a: _draws.some_zero(rng, a), keep_sign=False)
        yield Probe("zeros among what is of one sign", zeros, normal())
    yield Probe("all zero", _of_floats(runs, given, np.zeros_like), normal())
    wide = _of_floats(runs, given, lambda a: _draws.spread(rng, a, 20.0))
    yield Probe("large", wide, normal(), extreme=True)
    if any(not is_float(leaf.value) for leaf in runs.subject.leaves):
        for n in special_integers(runs.program):
            for where in ("first and last", "middle"):
                placed = functools.partial(_draws.with_integer, n, where)
                changed = _integers(runs, near, rng, "", placed)
                if changed is not None:
                    name = f"integers: {n} among them"
                    yield Probe(name, changed, normal(), of_integers=True)
        for how in ("repeat", "any", "first row false", "none true", "all true", "-1"):
            changed = _integers(runs, near, rng, how, functools.partial(_draws.changed, rng, how))
            if changed is not None:
                outside = how == "-1"
                yield Probe(
                    f"integers and masks: {how}",
                    changed,
                    normal(),
                    False,
                    outside,
                    of_integers=True,
                )
    if fast:
        return
    for i in runs.diff:
        zeroed = list(near)
        zeroed[i] = _of_floats(runs, given, np.zeros_like)[i]
        yield Probe(f"{runs.subject.leaves[i].path} = 0", zeroed, normal())
    sparse = _of_floats(runs, given, lambda a: np.where(rng.random(a.shape) < 0.2, 0, a))
    yield Probe("zeros here and there", sparse, normal())
    for name, change in (
        ("constant rows", _draws.constant_rows),
        ("tiny variance", lambda a: _draws.tiny_variance(rng, a)),
        ("very large", lambda a: _draws.spread(rng, a, 250.0)),
        ("very small", lambda a: 1e-4 * np.asarray(a)),
    ):
        yield Probe(name, _of_floats(runs, given, change), normal(), extreme=True)
    yield Probe("masked cotangent", near, [_draws.masked(rng, s) for s in shapes])


def _of_floats(
    runs: Runs, values: Sequence[Any], change: Callable[[Any], Any], keep_sign: bool = True
) -> list[Any]:
    changed = list(values)
    for i in runs.diff:
        value = np.asarray(values[i])
        wide = value if value.dtype.kind == "c" else value.astype(np.float64)
        # Rounded to the working dtype, so that all runs see the same numbers.
        with np.errstate(invalid="ignore"):  # of infinite input
            new = np.asarray(change(wide))
        changed[i] = (_of_one_sign(wide, new) if keep_sign else new).astype(runs.dtypes[i])
    return changed


def _at_thresholds(runs: Runs, near: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Values in which elements of a leaf lie at a threshold, just below or just above it.

    Each threshold is placed once at the first, at a middle and at the last element.
    """
    found = thresholds_of(runs.program, runs.subject.values, runs.diff)
    for i, edges in found.items():
        a = np.asarray(near[i])
        if a.dtype.kind == "c" or not a.size:
            continue
        wide = a.astype(np.float64)
        at = [np.broadcast_to(np.asarray(edge, np.float64), a.shape).ravel() for edge in edges[:8]]
        steps = [(edge, step) for step in (0.0, -1e-3, 1e-3) for edge in at]
        places = list(dict.fromkeys((0, a.size // 2, a.size - 1)))
        path = runs.subject.leaves[i].path
        sign = _draws.one_sign(np.asarray(runs.subject.values[i]))
        for n in range(len(steps)):
            new = wide.ravel().copy()
            for k, place in enumerate(places):
                edge, step = steps[(n + k) % len(steps)]
                at_edge = edge[place] + step * max(1.0, abs(edge[place]))
                # An argument given with one sign may be 0, if the function asks, but not beyond.
                new[place] = at_edge if not sign or sign * at_edge >= 0 else new[place]
            values = list(near)
            values[i] = new.reshape(a.shape).astype(runs.dtypes[i])
            yield f"{path} at its thresholds", values


def _of_one_sign(given: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Keeps the sign of arrays given with one sign: variances, temperatures, probabilities."""
    if given.dtype.kind == "c" or not given.size:
        return changed
    for sign in (1, -1):
        least = (sign * given).min()
        if least > 0:
            return np.where(sign * changed <= 0, sign * 0.01 * least, changed)
        if least == 0 and given.any():
            return np.where(sign * changed < 0, 0, changed)
    return changed


def _integers(
    runs: Runs,
    values: Sequence[Any],
    rng: np.random.Generator,
    how: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> list[Any] | None:
    """The values with integers and masks changed by `change`; None if nothing changes.

    What was given as a permutation, one-hot or ascending stays that.
    """
    found = kinds(runs.subject.values)
    changed, any_change = list(values), False
    for i, leaf in enumerate(runs.subject.leaves):
        a = np.asarray(leaf.value) if not is_key(leaf.value) else np.zeros(0)
        if is_float(a) or not a.size:
            continue
        kept = redrawn(rng, how, found[i], a) if i in found else None
        new = change(a) if kept is None else kept
        if found.get(i) == "ascending" and how in ("any", "repeat"):
            new = np.sort(new)
        any_change |= new is not a
        changed[i] = new
    for i, j, is_inverse in partners(runs.subject.values, found):
        changed[i] = np.argsort(changed[j]).astype(changed[i].dtype) if is_inverse else changed[j]
    return changed if any_change else None
