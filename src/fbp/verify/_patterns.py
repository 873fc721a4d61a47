"""A dictionary of how gradients go wrong: what a wrong gradient looks like beside the right one."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fbp.verify._card import Hint
from fbp.verify._slopes import SLOPES

_CLOSE = 1e-7


class Scene(NamedTuple):
    """One wrong gradient, and everything around it on the probe where it shows.

    Attributes:
      leaf: its path.
      got: the gradient by the rule.
      want: the reference.
      x: the value it is by.
      arrays: all arguments, outputs and cotangents by name, and what is made of x.
      integers: the integer and boolean arguments.
      others: the reference gradients of the other leaves.
      sizes: the sizes of axes at hand, and of what counts.
      thresholds: constants that the function compares with.
      dy: the cotangent, where the function is elementwise in this leaf; else None.
    """

    leaf: str
    got: np.ndarray
    want: np.ndarray
    x: np.ndarray
    arrays: dict[str, np.ndarray]
    integers: dict[str, np.ndarray]
    others: dict[str, np.ndarray]
    sizes: dict[str, int]
    thresholds: list[float]
    dy: np.ndarray | None


def close(a: Any, b: Any, scale: float | None = None) -> bool:
    """Whether two gradients are the same up to rounding."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    size = np.abs(b).max(initial=0.0) if scale is None else scale
    return bool(np.abs(a - b).max(initial=0.0) <= _CLOSE * size) and size > 0


def patterns(scene: Scene) -> Iterator[tuple[float, Hint]]:
    """Every pattern that fits, with its rank: the lower, the more it says."""
    if not scene.got.any():
        yield 0, Hint(scene.leaf, "zero", "all zero: its term is missing altogether")
        return
    for rank, look in enumerate(
        (
            *(_whole, _permuted, _swapped, _rolled, _subset, _mask, _rows_of_integers),
            *(_spread, _constant, _times, _slope, _functions, _contraction, _along, _row_scale),
        )
    ):
        for kind, text in look(scene) or ():
            yield _RANK.get(kind, 2) + rank * 1e-3, Hint(scene.leaf, kind, text)


# Terms and altered cotangents or inputs, found by running the reference, have ranks of their own.
_RANK = {
    **{"zero": 0, "sign": 0, "factor": 0, "swap": 0, "transpose": 0, "roll": 0},
    **{"subset": 3, "mask": 1, "constant": 3, "slope": 2, "along": 4, "row_scale": 5, "term": 2},
}


def _whole(s: Scene) -> Iterator[tuple[str, str]]:
    return whole(s.got, s.want, s.sizes)


def whole(
    got: np.ndarray, want: np.ndarray, sizes: dict[str, int], tolerance: float = _CLOSE
) -> Iterator[tuple[str, str]]:
    """The gradient is the reference times a constant."""
    if not got.any() and want.any():
        yield "zero", "all zero: its term is missing altogether"
        return
    if not want.any():
        return
    factor = float(np.real(np.vdot(want, got)) / np.real(np.vdot(want, want)))
    if np.abs(got - factor * want).max() > tolerance * np.abs(got).max():
        return
    factor = float(f"{factor:.4g}") if tolerance > 1e-6 else factor
    if abs(factor + 1) < 10 * tolerance:
        yield "sign", "minus the reference: a sign is flipped"
    else:
        named = name_of_factor(factor, sizes, max(1e-6, tolerance))
        if want.size > 1 or named != f"{factor:.6g}":
            yield "factor", f"{named} times the reference"


def name_of_factor(factor: float, sizes: dict[str, int], tolerance: float = 1e-6) -> str:
    """A constant by what it is made of: 1/2, n, 1/n, n/(n-1), sqrt(n)."""
    names = [(float(v), str(v)) for v in (2, 3, 4, 5, 6, 8)]
    names += [
        (v / w, f"{v}/{w}") for v, w in ((1, 2), (1, 3), (2, 3), (3, 2), (3, 4), (4, 3), (1, 4))
    ]
    for name, n in sizes.items():
        if n < 2:
            continue
        says = f"n = {n} ({name})"
        names += [
            (n, says),
            (1 / n, f"1/n = 1/{n}, {says}"),
            (n / (n - 1), f"n/(n-1) = {n}/{n - 1}, {says}"),
            ((n - 1) / n, f"(n-1)/n = {n - 1}/{n}, {says}"),
            (n**0.5, f"sqrt({n}), {says}"),
            (n**-0.5, f"1/sqrt({n}), {says}"),
            (2 / n, f"2/n = 2/{n}, {says}"),
            (n / 2, f"n/2 = {n}/2, {says}"),
            (1 / n**2, f"1/n^2 = 1/{n}^2, {says}"),
            (n / (n + 1), f"n/(n+1) = {n}/{n + 1}, {says}"),
            ((n + 1) / n, f"(n+1)/n = {n + 1}/{n}, {says}"),
        ]
    for (a, n), (b, m) in itertools.permutations(sizes.items(), 2):
        if a != b and n != m and n > 1 and m > 1:
            names += [(n / m, f"{n}/{m}, {a} over {b}"), (1 / (n * m), f"1/n = 1/({n} * {m})")]
            names.append((float(n * m), f"n = {n} * {m}"))
    for sign, minus in ((1, ""), (-1, "minus ")):
        for value, says in names:
            if abs(sign * factor - value) <= tolerance * value:
                return minus + says
    for value, says in ((factor, "n = {}"), (1 / factor, "1/n = 1/{}")):
        if abs(value - round(value)) <= 1e-6 and 1 < abs(value) < 1e6:
            return says.format(round(value))
    return f"{factor:.6g}"


def _permuted(s: Scene) -> Iterator[tuple[str, str]]:
    shape = s.want.shape
    for order in itertools.permutations(range(s.want.ndim)):
        if order == tuple(range(s.want.ndim)) or s.want.ndim > 4:
            continue
        if tuple(shape[i] for i in order) == shape and close(s.got, s.want.transpose(order)):
            yield "transpose", f"the reference transposed: axes {order}"
    for n in range(1, s.want.ndim + 1):
        for axes in itertools.combinations(range(s.want.ndim), n):
            if all(shape[a] > 1 for a in axes) and close(s.got, np.flip(s.want, axes)):
                yield "transpose", f"the reference flipped along axes {axes}"
                yield "term", f"drop: a rev (flip) along axes {axes} is missing, or one too many"


def _swapped(s: Scene) -> Iterator[tuple[str, str]]:
    for name, other in s.others.items():
        if close(s.got, other):
            yield "swap", f"it is the gradient of {name}: two gradients are swapped"
        elif close(s.got, -other):
            yield "swap", f"it is minus the gradient of {name}"
        elif other.shape == s.want.shape:
            for sign, says in ((1, "plus"), (-1, "minus")):
                if close(s.got - s.want, sign * other, np.abs(other).max(initial=0)):
                    yield "along", f"the reference {says} the gradient of {name}"
        elif other.size == s.want.size and close(s.got, other.reshape(s.want.shape)):
            yield "swap", f"it is the gradient of {name}, reshaped"


def _rolled(s: Scene) -> Iterator[tuple[str, str]]:
    for axis, n in enumerate(s.want.shape):
        for k in range(1, min(n, 9)):
            for by in (k, -k):
                if close(s.got, np.roll(s.want, by, axis)):
                    yield "roll", f"the reference rolled by {by} along axis {axis}"
                    return
    long = [axis for axis, n in enumerate(s.want.shape) if n > 2]
    for axes in (*((a,) for a in long), *itertools.combinations(long, 2)):
        for shifts in itertools.product((1, -1, 2, -2), repeat=len(axes)):
            inner, outer = [slice(None)] * s.want.ndim, [slice(None)] * s.want.ndim
            for axis, k in zip(axes, shifts, strict=True):
                inner[axis] = slice(k, None) if k > 0 else slice(None, k)
                outer[axis] = slice(None, -k) if k > 0 else slice(-k, None)
            mine, right = s.got[tuple(inner)], s.want[tuple(outer)]
            if mine.size > 1 and close(mine, right):
                yield (
                    "roll",
                    f"the reference shifted by {shifts} along axes {axes}, but for the edges",
                )
                return


def _wrong(s: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Where the gradient is wrong, and where that can be told at all."""
    scale = max(np.abs(s.want).max(), np.abs(s.got).max())
    wrong = np.abs(s.got - s.want) > 1e-9 * scale
    tells = wrong | (np.abs(s.want) > 1e-9 * scale)
    return wrong, tells


def _subset(s: Scene) -> Iterator[tuple[str, str]]:
    wrong, tells = _wrong(s)
    for axis, n in enumerate(s.want.shape):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        bad = wrong.any(others)
        told = tells.any(others)
        if not bad.any() or (bad | ~told).all() or n < 2:
            continue
        rows = np.flatnonzero(bad)
        right = np.flatnonzero(told & ~bad)
        gone = np.abs(s.got.swapaxes(0, axis)[rows]).max() == 0
        how = "zero" if gone else "wrong"
        if len(right) == 1 and n > 2:
            only = "first" if right[0] == 0 else "last" if right[0] == n - 1 else f"{right[0]}"
            yield "subset", f"along axis {axis} {how} everywhere but at the {only}"
        elif len(rows) <= max(3, n // 4):
            which = {0: "first", n - 1: "last"}
            named = ", ".join(which.get(int(r), str(r)) for r in rows[:6])
            yield "subset", f"along axis {axis} {how} at the {named} only (row {rows[0]} of {n})"
        else:
            run = bool((np.diff(rows) == 1).all())
            place = f"{rows[0]} to {rows[-1]}" if run else f"{len(rows)} of {n} rows"
            edge = " (the last)" if rows[-1] == n - 1 else " (the first)" if rows[0] == 0 else ""
            yield "subset", f"along axis {axis} {how} at {place}{edge}, right elsewhere"
    share = wrong.sum() / max(1, tells.sum())
    if wrong.sum() == 1 and wrong.size > 2:
        yield "subset", f"wrong in one element only: {list(map(int, np.argwhere(wrong)[0]))}"
    elif s.want.ndim >= 2 and s.want.shape[-1] == s.want.shape[-2] and share < 1:
        square = np.broadcast_to(np.eye(s.want.shape[-1], dtype=bool), s.want.shape)
        for where, says in ((square, "on the diagonal"), (~square, "off the diagonal")):
            if not (wrong & ~where).any() and not (tells & where & ~wrong).any():
                yield "subset", f"wrong {says} only"


def _mask(s: Scene) -> Iterator[tuple[str, str]]:
    """A condition on an array at hand that separates wrong from right elements."""
    wrong, tells = _wrong(s)
    right = tells & ~wrong
    if not wrong.any() or not right.any():
        return
    for name, array in s.arrays.items():
        if array.shape != s.want.shape or np.iscomplexobj(array):
            continue
        for says, c in ((name, array), (f"|{name}|", np.abs(array))):
            low, high = c[wrong], c[right]
            for below, above, relation in ((low, high, "<"), (high, low, ">")):
                if below.max() < above.min():
                    at = _between(below.max(), above.min(), s.thresholds)
                    yield "mask", f"wrong only where {says} {relation} {at:.4g}"
                    break
            else:
                values = np.unique(low)
                if len(values) == 1 and not (high == values[0]).any():
                    yield "mask", f"wrong only where {says} == {values[0]:.4g} (a tie or a kink)"
    for name, array in s.integers.items():
        for view in _spread_over(array, s.want.shape):
            bad, good = np.unique(view[wrong]), np.unique(view[right])
            if not np.intersect1d(bad, good).size and len(bad) <= 3:
                yield "mask", f"wrong only where {name} == {', '.join(map(str, bad))}"


def _between(low: float, high: float, thresholds: list[float]) -> float:
    inside = [t for t in (0.0, *thresholds, *(-t for t in thresholds)) if low <= t <= high]
    return inside[0] if inside else (low + high) / 2


def _spread_over(a: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for start in range(len(shape) - a.ndim + 1):
        if shape[start : start + a.ndim] == a.shape and a.ndim:
            tail = (1,) * (len(shape) - start - a.ndim)
            yield np.broadcast_to(a.reshape(a.shape + tail), shape)


def _rows_of_integers(s: Scene) -> Iterator[tuple[str, str]]:
    """Rows of a table, by how often and where integers name them."""
    wrong, tells = _wrong(s)
    if s.want.ndim < 1:
        return
    for axis, n in enumerate(s.want.shape):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        bad, told = wrong.any(others), tells.any(others)
        for name, ids in s.integers.items():
            if ids.dtype == bool or not ids.size or ids.max() >= n:
                continue
            plain = ids[ids >= 0]
            counts = np.bincount(plain.ravel().astype(int), minlength=n)
            negative = np.zeros(n, bool)
            negative[ids[(ids < 0) & (ids >= -n)].astype(int)] = True
            often = counts > 1
            if often.any() and bad.any() and not (bad & ~often).any() and (told & ~bad).any():
                yield "mask", f"wrong only in rows that {name} names more than once (duplicate)"
            if negative.any() and bad.any() and not (bad & ~negative).any():
                yield "mask", f"wrong where {name} < 0: a negative index"
            zero = np.zeros(n, bool)
            zero[0] = True
            if bad.any() and (bad == zero).all():
                yield "mask", f"wrong only in row 0, the row of {name} == 0 (padding)"


def _constant(s: Scene) -> Iterator[tuple[str, str]]:
    off = s.got - s.want
    size = np.abs(off).max()
    for n in range(1, off.ndim + 1):
        for axes in itertools.combinations(range(off.ndim), n):
            if any(off.shape[a] < 2 for a in axes):
                continue
            if np.ptp(off, axis=axes).max() <= 1e-8 * size:
                along = " and ".join(map(str, axes))
                yield (
                    "constant",
                    f"residual constant along axis {along}: a mean or sum term is missing",
                )
                return


def _spread(s: Scene) -> Iterator[tuple[str, str]]:
    """The same along an axis where the reference is not."""
    for axis, n in enumerate(s.want.shape):
        if n < 2:
            continue
        mean = s.want.mean(axis, keepdims=True)
        for says, value in (("mean", mean), ("sum", n * mean)):
            if close(s.got, np.broadcast_to(value, s.want.shape)):
                yield "constant", f"the {says} of the reference along axis {axis}, for all"


def _along(s: Scene) -> Iterator[tuple[str, str]]:
    """A residual, or the gradient, along another array, row by row."""
    off = s.got - s.want
    for name, v in s.arrays.items():
        if v.ndim and v.shape == off.shape[off.ndim - v.ndim :]:
            v = np.broadcast_to(v, off.shape)
        if v.shape != off.shape:
            continue
        for axes in (tuple(range(off.ndim)), *((a,) for a in range(off.ndim))):
            if _is_along(off, v, axes):
                along = "" if len(axes) == off.ndim else f" along axis {axes[0]}"
                yield (
                    "along",
                    f"residual along {name}{along}: a projection or term on {name} is off",
                )
                break
        else:
            if v.any() and _is_along(s.got, v, tuple(range(off.ndim))):
                yield "along", f"it is along {name} itself"


def _contraction(s: Scene) -> Iterator[tuple[str, str]]:
    """A sum of products of two arrays at hand: another operand than the one that belongs there."""
    names = [n for n, a in s.arrays.items() if a.ndim >= max(1, s.want.ndim) and a.size > 1]
    if np.iscomplexobj(s.want) or len(names) > 24:
        names = names[:24]
    for a, b in itertools.combinations_with_replacement(names, 2):
        u, v = s.arrays[a], s.arrays[b]
        if u.shape == v.shape and s.want.ndim < u.ndim:
            lead = u.ndim - s.want.ndim
            if u.shape[lead:] == s.want.shape:
                total = (u * v).sum(tuple(range(lead)))
                if close(s.got, total):
                    yield (
                        "term",
                        f"it is the sum of {a} times {b}: another operand, or a factor dropped",
                    )
                    return
        if s.want.ndim == 2 and u.ndim >= 2 and v.ndim >= 2 and u.shape[:-1] == v.shape[:-1]:
            for p, q, m, n in ((u, v, a, b), (v, u, b, a)):
                if (p.shape[-1], q.shape[-1]) == s.want.shape:
                    product = p.reshape(-1, p.shape[-1]).T @ q.reshape(-1, q.shape[-1])
                    if close(s.got, product):
                        yield "term", f"another operand: it is ({m})^T @ ({n})"
                        return
    for a, b in itertools.permutations(names, 2):
        u, v = s.arrays[a], s.arrays[b]
        if v.ndim != 2 or u.ndim < 2:
            continue
        for w, how in ((v, b), (v.T, f"({b})^T")):
            fits = u.shape[-1] == w.shape[0] and (*u.shape[:-1], w.shape[1]) == s.want.shape
            if fits and close(s.got, u @ w):
                yield "term", f"another operand: it is ({a}) @ {how}, a dot_general transposed"
                return


def _is_along(off: np.ndarray, v: np.ndarray, axes: tuple[int, ...]) -> bool:
    length = np.prod([off.shape[a] for a in axes])
    if length < 3 or not off.any():
        return False
    square = (v * np.conj(v)).sum(axes, keepdims=True).real
    share = (off * np.conj(v)).sum(axes, keepdims=True) / np.where(square > 0, square, 1)
    return close(share * v, off, np.abs(off).max())


def _row_scale(s: Scene) -> Iterator[tuple[str, str]]:
    for axis in range(s.want.ndim):
        if s.want.shape[axis] > 2 and _is_along(s.got, s.want, (axis,)):
            yield "row_scale", f"the reference times one factor for each row along axis {axis}"
            return
    for axis in range(s.want.ndim):
        others = tuple(a for a in range(s.want.ndim) if a != axis)
        if others and _is_along(s.got, s.want, others):
            yield "row_scale", f"the reference times one factor for each index of axis {axis}"
            return


_OF_ONE: dict[str, Callable[[np.ndarray], Any]] = {
    "{}": lambda v: v,
    "1 / {}": lambda v: 1 / v,
    "{}^2": lambda v: v**2,
    "1 / {}^2": lambda v: 1 / v**2,
    "sqrt({})": lambda v: np.sqrt(np.abs(v)),
    "{0} (1 - {0})": lambda v: v * (1 - v),
    "1 - {}": lambda v: 1 - v,
    "1 - {}^2": lambda v: 1 - v**2,
    "exp({})": np.exp,
    "log({})": lambda v: np.log(np.abs(v)),
}


def _times(s: Scene) -> Iterator[tuple[str, str]]:
    """The reference, or the cotangent, times a function of an array at hand."""
    bases = [("row_scale", "the reference", s.want)]
    if "dy" in s.arrays and s.arrays["dy"].shape == s.want.shape:
        bases.append(("slope", "dy", s.arrays["dy"]))
    for name, v in s.arrays.items():
        if v.shape != s.want.shape or np.iscomplexobj(v) or name.startswith(("1", "dy")):
            continue
        for written, f in _OF_ONE.items():
            with np.errstate(all="ignore"):
                factor = f(v)
            if not np.isfinite(factor).all() or np.ptp(factor) == 0:
                continue
            for kind, says, base in bases:
                if close(s.got, base * factor):
                    yield kind, f"it is {says} times {written.format(name)}, a factor for each"
                    return


def _functions(s: Scene) -> Iterator[tuple[str, str]]:
    """The gradient of another function of x."""
    dy = s.arrays.get("dy")
    if dy is None or dy.shape != s.x.shape or s.x.dtype.kind != "f":
        return
    for axis in range(s.x.ndim):
        p = np.exp(s.x - s.x.max(axis, keepdims=True))
        p = p / p.sum(axis, keepdims=True)
        known = {
            "softmax": p * (dy - (p * dy).sum(axis, keepdims=True)),
            "log_softmax": dy - p * dy.sum(axis, keepdims=True),
            "x - mean(x)": dy - dy.mean(axis, keepdims=True),
            "cumsum": np.flip(np.cumsum(np.flip(dy, axis), axis), axis),
            "a cumsum run backwards": np.cumsum(dy, axis),
        }
        for name, gradient in known.items():
            if close(s.got, gradient) and not close(s.want, gradient):
                yield "slope", f"it is the gradient of {name} along axis {axis}"
                return


def _slope(s: Scene) -> Iterator[tuple[str, str]]:
    if s.dy is None or np.iscomplexobj(s.x) or np.iscomplexobj(s.dy):
        return
    clear = np.abs(s.dy) > 1e-3 * np.abs(s.dy).max()
    x, mine, right = s.x[clear], s.got[clear] / s.dy[clear], s.want[clear] / s.dy[clear]
    for name, f in SLOPES.items():
        with np.errstate(all="ignore"):
            if close(mine, f(x), max(1.0, np.abs(mine).max())):
                yield "slope", f"its local derivative is {name}"
                return
    worst = int(np.argmax(np.abs(mine - right)))
    yield (
        "slope",
        f"the local derivative is wrong: at {s.leaf} = {x[worst]:.4g} it is {mine[worst]:.6g}, "
        f"not {right[worst]:.6g}",
    )
