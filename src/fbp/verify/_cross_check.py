"""The hand-written gradient of an objective beside jax.grad, leaf by leaf."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Key, PyTree
from fbp._objective import Microbatch, Objective, ObjectiveParams
from fbp._text import align
from fbp._tree import named_leaves


class WrongGradientError(Exception):
    """A hand-written gradient disagrees with its reference."""


@dataclasses.dataclass(frozen=True)
class LeafCheck:
    """One leaf of the gradient. Errors are max|error| / max|reference|; the reference is float64.

    Attributes:
      path: the leaf, as in `model.dense_1.w`.
      shape: its shape.
      dtype: its dtype, the working dtype.
      error64: the rule's error when it runs in float64.
      error: the rule's error in the working dtype.
      control: jax.grad's error in the working dtype.
      ok: whether both errors are within what rounding explains.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    error64: float
    error: float
    control: float
    ok: bool


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """What `cross_check` found; `str()` is a table by leaf."""

    leaves: tuple[LeafCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every leaf agrees."""
        return all(leaf.ok for leaf in self.leaves)

    def raise_if_wrong(self) -> None:
        """Raises WrongGradientError, naming the leaves that disagree."""
        wrong = [leaf for leaf in self.leaves if not leaf.ok]
        if wrong:
            said = "; ".join(
                f"{leaf.path} {list(leaf.shape)} by {leaf.error64:.1e} of its size in float64, "
                f"{leaf.error:.1e} in {leaf.dtype}"
                for leaf in wrong
            )
            raise WrongGradientError(f"the hand-written gradient differs from jax.grad: {said}")

    def table(self) -> list[list[str]]:
        """The cells of the table, its first row the head."""
        rows = [["gradient", "shape", "float64", "working", "jax.grad", "verdict"]]
        for leaf in self.leaves:
            shape = "x".join(map(str, leaf.shape)) or "scalar"
            errors = [f"{error:.1e}" for error in (leaf.error64, leaf.error, leaf.control)]
            rows.append([leaf.path, shape, *errors, "ok" if leaf.ok else "WRONG"])
        return rows

    def __str__(self) -> str:
        return align(self.table())


def cross_check(
    objective: Objective | Microbatch, params: ObjectiveParams, batch: PyTree, key: Key = None
) -> CrossCheck:
    """Compares the hand-written gradient with `jax.grad` of the same objective on one batch.

    First the algebra: the rule in float64 against jax.grad in float64. A wrong term moves a leaf
    by its own order; rounding by eps times the length of its sums. The line is drawn at eps^(2/3),
    3.7e-11. Then the precision: the rule in the working dtype against the float64 gradient, beside
    jax.grad in the same dtype. It may err by 4 times what jax.grad does, plus eps^(2/3). A leaf
    whose gradient cancels to nothing is measured by the largest leaf times eps^(1/3), which is what
    rounding leaves of it.

    Args:
      objective: an `Objective`, or a `Microbatch` of one.
      params: its parameters.
      batch: `(x, target)`.
      key: a key for the noise of training; both sides draw the same.

    Raises:
      FloatingPointError: the loss or its reference gradient is not finite on this batch.
    """

    @jax.jit
    def both(params: ObjectiveParams, batch: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        value, rule = objective.value_and_grad(params, batch, key)
        return value, rule, jax.grad(objective.value)(params, batch, key)

    value, rule, auto = jax.tree.map(np.asarray, both(params, batch))
    with jax.enable_x64(True):
        wide = jax.tree.map(_float64, (params, batch))
        value64, rule64, exact = jax.tree.map(np.asarray, both(*wide))
    if not (np.isfinite(value) and np.isfinite(value64)):
        raise FloatingPointError(f"the loss is {value} on the batch the gradient is checked on")

    trees = named_leaves(rule64), named_leaves(rule), named_leaves(auto)
    references = named_leaves(exact)
    for path, reference in references.items():
        if not np.isfinite(reference).all():
            raise FloatingPointError(f"the reference gradient of {path} is not finite")
    largest = max((np.abs(leaf).max(initial=0) for leaf in references.values()), default=0)
    eps64 = np.finfo(np.float64).eps
    leaves = []
    for path, reference in references.items():
        hand64, hand, control = (tree[path] for tree in trees)
        eps = float(jnp.finfo(hand.dtype).eps)
        own = np.abs(reference).max(initial=0)
        error64 = _error(hand64, reference, max(own, largest * eps64 ** (1 / 3)))
        scale = max(own, largest * eps ** (1 / 3))
        error, auto_error = _error(hand, reference, scale), _error(control, reference, scale)
        ok = error64 <= eps64 ** (2 / 3) and error <= 4 * auto_error + eps ** (2 / 3)
        leaves.append(
            LeafCheck(path, reference.shape, str(hand.dtype), error64, error, auto_error, bool(ok))
        )
    return CrossCheck(tuple(leaves))


def _float64(x: Any) -> Any:
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _error(got: np.ndarray, want: np.ndarray, scale: float) -> float:
    """max|got - want| in units of scale; infinite where got is NaN or has another shape."""
    if got.shape != want.shape:
        return float("inf")
    if not want.size or not scale:
        return 0.0 if np.array_equal(got, want) else float("inf")
    error = np.abs(got.astype(np.float64) - want).max() / scale
    return float(error) if np.isfinite(error) else float("inf")
