"""Errors between gradients, and the errors that rounding explains."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fbp._layer import PyTree
from fbp._tree import named_leaves
from fbp.verify.report._cross_check import LeafCheck


def leaf_checks(
    rule64: PyTree, exact: PyTree, rule: PyTree, auto: PyTree, reference: PyTree
) -> list[LeafCheck]:
    """Compares gradients with the same tree, leaf by leaf.

    Args:
      rule64: from the rules, in float64.
      exact: from jax.grad, in float64.
      rule: from the rules, in the working dtype.
      auto: from jax.grad, in the working dtype.
      reference: the gradient that `rule` and `auto` are compared with.

    Raises:
      FloatingPointError: a gradient from jax.grad is not finite.
    """
    checks = []
    trees = [named_leaves(tree) for tree in (rule64, exact, rule, auto, reference)]
    largest = [
        {of_x: _largest(tree, of_x) for of_x in (False, True)} for tree in (trees[1], trees[4])
    ]
    for path in trees[1]:
        hand64, want64, hand, control, want = (tree[path] for tree in trees)
        if not np.isfinite(want64).all():
            raise FloatingPointError(f"the reference gradient of {path} is not finite")
        if not np.isfinite(control.astype(np.float64)).all():
            raise FloatingPointError(
                f"jax.grad's gradient of {path} in {control.dtype} is not finite: not comparable"
            )
        eps64, eps = float(jnp.finfo(jnp.float64).eps), float(jnp.finfo(hand.dtype).eps)
        of_x = _is_x(path)
        scale64 = max(_size(want64), largest[0][of_x] * eps64 ** (1 / 3))
        scale = max(_size(want), largest[1][of_x] * eps ** (1 / 3))
        error64 = _error(hand64, want64, scale64)
        error, auto_error = _error(hand, want, scale), _error(control, want, scale)
        ok = error64 <= eps64 ** (2 / 3) and error <= 4 * auto_error + eps ** (2 / 3)
        checks.append(
            LeafCheck(path, want64.shape, str(hand.dtype), error64, error, auto_error, bool(ok))
        )
    return checks


def worse(a: LeafCheck, b: LeafCheck) -> LeafCheck:
    """Merges two checks of one leaf: the larger of each error, and ok only if both are."""
    return dataclasses.replace(
        a,
        error64=max(a.error64, b.error64),
        error=max(a.error, b.error),
        control=max(a.control, b.control),
        ok=a.ok and b.ok,
    )


def _is_x(path: str) -> bool:
    return path.partition(".")[0] == "x"


def _largest(leaves: dict[str, np.ndarray], of_x: bool) -> float:
    return max((_size(leaf) for path, leaf in leaves.items() if _is_x(path) == of_x), default=0.0)


def _size(a: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64)).max(initial=0))


def _error(got: np.ndarray, want: np.ndarray, scale: float) -> float:
    """max|got - want| in units of scale; infinite where got is NaN or has another shape."""
    if got.shape != want.shape:
        return float("inf")
    if not want.size or not scale:
        return 0.0 if np.array_equal(got, want) else float("inf")
    error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max() / scale
    return float(error) if np.isfinite(error) else float("inf")
