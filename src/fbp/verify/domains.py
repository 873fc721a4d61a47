"""Ready domains for `fbp.check(..., domain=...)`: what the inputs of a rule may be.

    fbp.check(f, p, domain={"p": domains.simplex()})
    fbp.check(g, low, x, high, domain={("low", "x", "high"): domains.ascending_arguments()})

Each is a function that moves arrays into the domain, and leaves arrays in it as they are. A
function of one's own that does so, or that says whether arrays are in the domain, serves as well.
"""

from collections.abc import Callable

import numpy as np

Move = Callable[[np.ndarray], np.ndarray]


def between(low: float = -np.inf, high: float = np.inf, ends: bool = False) -> Move:
    """low < x < high; if `ends`, low <= x <= high.

    What lies outside is reflected at the nearer end.

    Raises:
      ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"between: expected low below high, got {low} and {high}")
    width = high - low if np.isfinite(high - low) else 1.0
    margin = 0.0 if ends else 1e-3 * width

    def move(x: np.ndarray) -> np.ndarray:
        is_inside = (x >= low) & (x <= high) if ends else (x > low) & (x < high)
        # One reflection brings in what is near; more of them would change nothing but the order.
        mirrored = np.where(x <= low, 2 * low - x, np.where(x >= high, 2 * high - x, x))
        return np.where(is_inside, x, np.clip(mirrored, low + margin, high - margin))

    return move


def unit(axis: int | tuple[int, ...] = -1) -> Move:
    """Vectors of length 1 along an axis, or several: x / |x|; a zero vector becomes constant."""

    def move(x: np.ndarray) -> np.ndarray:
        length = np.sqrt((np.abs(x) ** 2).sum(axis, keepdims=True))
        filled = np.where(length > 0, x, 1.0)
        return filled / np.sqrt((np.abs(filled) ** 2).sum(axis, keepdims=True))

    return move


def simplex(axis: int | tuple[int, ...] = -1) -> Move:
    """Shares along an axis, 0 or more with the sum 1: |x| / sum |x|; zeros become equal shares."""

    def move(x: np.ndarray) -> np.ndarray:
        size = np.abs(x)
        filled = np.where(size.sum(axis, keepdims=True) > 0, size, 1.0)
        return filled / filled.sum(axis, keepdims=True)

    return move


def symmetric() -> Move:
    """Matrices on the last two axes that are their own transposes: (x + x^T) / 2."""
    return lambda x: (x + np.swapaxes(x, -1, -2)) / 2


def positive_definite(condition: float = 1e6) -> Move:
    """Symmetric (if complex, Hermitian) matrices on the last two axes, their eigenvalues above 0.

    A matrix that is none has its eigenvalues replaced by their sizes, and those below the largest
    over `condition` by that; a zero matrix becomes the identity.

    Raises:
      ValueError: the condition number is not above 1.
    """
    if not condition > 1:
        raise ValueError(f"positive_definite: expected a condition above 1, got {condition}")

    def move(x: np.ndarray) -> np.ndarray:
        hermitian = (x + np.conj(np.swapaxes(x, -1, -2))) / 2
        values, vectors = np.linalg.eigh(hermitian)
        largest = np.abs(values).max(-1, keepdims=True, initial=0.0)
        # A little above it, so that a matrix at the limit stays where it is when moved again.
        lifted = np.maximum(np.abs(values), 1.01 * largest / condition)
        lifted = np.where(largest > 0, lifted, 1.0)
        made = (vectors * lifted[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2))
        is_one = (values >= largest / condition).all(-1) & (largest[..., 0] > 0)
        return np.where(is_one[..., None, None], hermitian, made)

    return move


def ascending(gap: float = 0.0, axis: int = -1) -> Move:
    """Sorted along an axis, neighbours at least `gap` apart."""

    def move(x: np.ndarray) -> np.ndarray:
        steps = gap * np.arange(x.shape[axis])
        steps = np.moveaxis(np.broadcast_to(steps, np.moveaxis(x, axis, -1).shape), -1, axis)
        ordered = np.sort(x, axis)
        raised = np.maximum.accumulate(ordered - steps, axis) + steps
        # The sum above rounds: what is apart already stays exactly as it is.
        return np.where(raised - ordered > 1e-9 * gap, raised, ordered)

    return move


def permutation(axis: int = -1) -> Move:
    """Permutations of 0 to n - 1 along an axis: each number becomes its rank."""
    return lambda x: np.argsort(np.argsort(x, axis, kind="stable"), axis, kind="stable")


def ascending_arguments(gap: float = 1e-3) -> Callable[..., tuple[np.ndarray, ...]]:
    """Arguments in order, as low < x < high: each is everywhere at least `gap` above the last.

    Their shapes are broadcast. What is below its bound is reflected there.
    """

    def move(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        moved = [np.asarray(arrays[0])]
        for x in arrays[1:]:
            bound = _reduced(np.asarray(moved[-1]) + gap, np.shape(x))
            moved.append(np.where(x < bound, 2 * bound - x, x))
        return tuple(moved)

    return move


def _reduced(bound: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A bound in a shape that it broadcasts with: the largest where several meet one element."""
    bound = bound.max(tuple(range(bound.ndim - len(shape)))) if bound.ndim > len(shape) else bound
    aligned = zip(range(-1, -bound.ndim - 1, -1), reversed(bound.shape), strict=True)
    wide = tuple(axis for axis, n in aligned if n > 1 and shape[axis] == 1)
    return np.broadcast_to(bound.max(wide, keepdims=True) if wide else bound, shape)
