"""The inputs that a rule may be tried on, as its user declares them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.program._dtypes import is_float, is_key, wide
from fbp.verify.program._numbers import largest

Values = Sequence[Any]
# How often what is outside is halved towards a point inside: to 1e-6 of its distance.
_HALVINGS = 20


class Domain:
    """Moves the values of all leaves into the domain of a function.

    Args:
      paths: the names of the leaves.
      arguments: from the values of all leaves to the arguments of the user's function.
      declared: a function of the arguments, or a mapping from names of leaves to functions of them.
        Each function returns its arrays moved into the domain, or whether they are in it.

    Raises:
      TypeError: it is neither, or holds something else than functions.
      ValueError: it names a leaf that is not there.
    """

    def __init__(
        self, paths: Sequence[str], arguments: Callable[[Values], tuple[Any, ...]], declared: Any
    ) -> None:
        self._parts: list[tuple[list[int], Callable[[Values], Any]]] = []
        if callable(declared):
            every = list(range(len(paths)))
            self._parts.append((every, lambda values: declared(*arguments(values))))
            return
        if not isinstance(declared, Mapping):
            got = type(declared).__name__
            raise TypeError(f"domain: expected a function or a dict of functions, got {got}")
        for names, f in declared.items():
            if not callable(f):
                raise TypeError(f"domain of {names}: expected a function, got {type(f).__name__}")
            if isinstance(names, str):
                found = [i for i, p in enumerate(paths) if f"{p}.".startswith(f"{names}.")]
                self._parts += [([i], _of_leaves(f, [i])) for i in found]
            else:
                found = [paths.index(name) for name in names if name in paths]
                found = found if len(found) == len(names) else []
                self._parts.append((found, _of_leaves(f, found)))
            if not found:
                known = ", ".join(paths)
                raise ValueError(f"domain: expected names of arguments, got {names!r} of {known}")

    def inside(self, values: Values, center: Values) -> list[Any] | None:
        """The values, in float64, moved into the domain; None if that cannot be done.

        Args:
          values: the values of all leaves.
          center: values inside. If a function only says whether values are inside, others are
            moved towards these.
        """
        moved, inner = (
            [v if is_key(v) else wide(np.asarray(v)) for v in x] for x in (values, center)
        )
        with jax.enable_x64(True), np.errstate(all="ignore"):
            for places, f in self._parts:
                for _ in range(_HALVINGS):
                    new = _outcome(f(moved), moved, places)
                    if not isinstance(new, np.ndarray):
                        for i, v in zip(places, new, strict=True):
                            moved[i] = v
                        break
                    if new.all():
                        break
                    for i in places:
                        moved[i] = _halfway(moved[i], inner[i], new)
                else:
                    return None
        return moved

    def has(self, values: Values, tolerance: float) -> bool:
        """Whether values are in the domain: to a relative tolerance, they need not be moved."""
        return self.moved(values, tolerance) is None

    def moved(self, values: Values, tolerance: float | None = None) -> int | None:
        """The first leaf that has to be moved for the values to be in the domain, or None.

        Args:
          values: the values of all leaves.
          tolerance: how far is not counted, relative to the leaf; by default 64 rounding units.
        """
        new = self.inside(values, values)
        if new is None:
            return next(i for places, _ in self._parts for i in places)
        for i, (a, b) in enumerate(zip(values, new, strict=True)):
            if is_key(a):
                continue
            units = 64 * float(jnp.finfo(a.dtype).eps) if is_float(a) else 0.0
            with np.errstate(invalid="ignore"):
                off = largest(wide(np.asarray(a)) - b)
            if not off <= (units if tolerance is None else tolerance) * largest(b):
                return i
        return None

    def step(self, values: Values, moves: Mapping[int, np.ndarray], step: float) -> float:
        """A step, at most `step`, with which moves to both sides stay in the domain.

        In a domain without interior, as that of unit vectors, no step does: then it is `step`.
        """
        for n in range(_HALVINGS):
            h = step / 2**n
            ends = [self._at(values, moves, sign * h) for sign in (1, -1)]
            if all(self.has(end, 1e-9) for end in ends):
                return h
        return step

    def tangents(self, values: Values, moves: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The moves without what leaves the domain: their parts along it."""
        h = 1e-6 * max([1e-3, *(largest(values[i]) for i in moves)])
        sides = [self.inside(self._at(values, moves, s * h), values) or values for s in (1, -1)]
        return {i: (np.asarray(sides[0][i]) - np.asarray(sides[1][i])) / (2 * h) for i in moves}

    def is_thin(self, values: Values, moves: Mapping[int, np.ndarray]) -> bool:
        """Whether these moves leave the domain at once, as it has no interior."""
        along = self.tangents(values, moves)
        return any(largest(along[i] - v) > 1e-3 * largest(v) for i, v in moves.items())

    @staticmethod
    def _at(values: Values, moves: Mapping[int, np.ndarray], h: float) -> list[Any]:
        return [v + h * moves[i] if i in moves else v for i, v in enumerate(values)]


def _outcome(new: Any, values: Values, places: Sequence[int]) -> Any:
    """The arrays that a function of a domain returned, or an array of bools that say "inside".

    Raises:
      ValueError: it returned something else.
    """
    leaves = [x if is_key(x) else np.asarray(x) for x in jax.tree.leaves(new)]
    answers = [x for x in leaves if x.dtype == bool]
    is_answer = leaves and len(answers) == len(leaves)
    if is_answer and not all(values[i].dtype == bool for i in places):
        return answers[0] if len(answers) == 1 else np.asarray([np.all(x) for x in answers])
    got, wanted = [x.shape for x in leaves], [values[i].shape for i in places]
    if got != wanted:
        raise ValueError(
            f"expected a function that returns its arguments, of shapes {wanted}, or "
            f"whether they are in the domain, got shapes {got}"
        )
    pairs = zip(leaves, places, strict=True)
    return [x if is_key(x) else x.astype(values[i].dtype) for x, i in pairs]


def _of_leaves(f: Callable[..., Any], places: Sequence[int]) -> Callable[[Values], Any]:
    return lambda values: f(*(values[i] for i in places))


def _halfway(a: Any, center: Any, is_inside: np.ndarray) -> Any:
    """Halfway to the center, only the elements that are outside if that is known of each."""
    if not is_float(a):
        return center
    half = (a + center) / 2
    return np.where(is_inside, a, half) if is_inside.shape == a.shape else half
