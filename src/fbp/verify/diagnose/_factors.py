"""Recognises a gradient that is the reference times a constant, and names the constant."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fbp.verify.diagnose._scene import CLOSE, Scene, close, spread_over


def whole(
    got: np.ndarray, want: np.ndarray, sizes: dict[str, int], tolerance: float = CLOSE
) -> Iterator[tuple[str, str]]:
    """A hint (kind, text) if the gradient is zero, or the reference times a constant."""
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
        if abs(factor - 1) < 1e-3:
            return  # an error of rounding or of an iteration, and no factor
        if named != f"{factor:.6g}" or abs(factor - round(factor)) < 1e-9:
            yield "factor", f"{named} times the reference"


def unnamed(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is the reference times a number that has no name."""
    if not s.want.any() or s.want.size < 2:
        return
    factor = float(np.real(np.vdot(s.want, s.got)) / np.real(np.vdot(s.want, s.want)))
    if abs(abs(factor) - 1) > 1e-3 and close(s.got, factor * s.want, np.abs(s.got).max()):
        yield "factor", f"{factor:.6g} times the reference"


def name_of_factor(factor: float, sizes: dict[str, int], tolerance: float = 1e-6) -> str:
    """A constant as an expression in the sizes: 1/2, n, 1/n, n/(n-1), sqrt(n)."""
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


_OF_ONE: dict[str, Callable[[np.ndarray], Any]] = {
    "{}": lambda v: v,
    "1 / ({})": lambda v: 1 / v,
    "exp({})": np.exp,
    "exp(-({}))": lambda v: np.exp(-v),
}


def factors(s: Scene) -> Iterator[tuple[str, str]]:
    """A gradient that is the reference times a value that the function computes, or has in it."""
    if np.iscomplexobj(s.want) or not s.want.any():
        return
    named = [(name, s.arrays[name]) for name in s.given if name in s.arrays]
    for name, value in [*named, *s.made]:
        if np.iscomplexobj(value) or not value.size:
            continue
        for written, f in _OF_ONE.items():
            with np.errstate(all="ignore"):
                factor = np.asarray(f(np.asarray(value, np.float64)))
            if not (np.abs(factor) < 1e100).all():
                continue
            if np.ptp(factor) == 0:
                c = float(factor.flat[0])
                for says, times in ((written, 1), *_over_sizes(written, s.sizes)):
                    is_one = abs(c * times - 1) < 1e-6
                    if not is_one and c and close(s.got, c * times * s.want):
                        yield "factor", f"{says.format(name)} ({c * times:.4g}) times the reference"
                        return
                continue
            for spread in _views(factor, s.want.shape):
                if close(s.got, spread * s.want) and not close(s.want, spread * s.want):
                    each = "each row" if value.ndim < s.want.ndim else "each element"
                    yield "row_scale", f"the reference times {written.format(name)}, for {each}"
                    return


def _over_sizes(written: str, sizes: dict[str, int]) -> list[tuple[str, float]]:
    return [(f"{written} / {n}, n the {name},", 1 / n) for name, n in sizes.items() if n > 1]


def _views(a: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The array spread over a shape, in every way that fits."""
    yield from spread_over(a, shape)
    if a.ndim == len(shape) and all(n in (1, m) for n, m in zip(a.shape, shape, strict=True)):
        yield np.broadcast_to(a, shape)
