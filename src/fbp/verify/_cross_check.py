"""The hand-written gradient of an objective beside jax.grad, leaf by leaf."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._layer import Key, PyTree
from fbp._objective import Microbatch, Objective, ObjectiveParams
from fbp._tree import named_leaves
from fbp.verify._report import CrossCheck, LeafCheck, WrongGradientError


class Gradient(NamedTuple):
    """The gradient of an objective by everything that has one; its leaves are what is compared."""

    model: PyTree
    loss: PyTree
    x: PyTree


def cross_check(
    objective: Objective | Microbatch, params: ObjectiveParams, batch: PyTree, key: Key = None
) -> CrossCheck:
    """Compares the hand-written gradient with `jax.grad` of the same objective on one batch.

    Every parameter is compared, and x, the model's input: at the given params, and once more a
    little beside them, since weights that start at 1 and biases that start at 0 hide wrong terms.

    First the algebra: the rule in float64 against jax.grad in float64. A wrong term moves a leaf
    by its own order; rounding by eps times the length of its sums. The line is drawn at eps^(2/3),
    3.7e-11: a model that rounds to float32 inside, whatever its input, does not meet it. Then the
    precision: the rule in the working dtype against the float64 gradient, beside jax.grad in the
    same dtype. It may err by 4 times what jax.grad does, plus eps^(2/3). (With a key float64 draws
    other noise, so the rule is then held against jax.grad in the working dtype itself.) A leaf
    whose gradient cancels to nothing is measured by the largest leaf times eps^(1/3), which is
    what rounding leaves of it.

    Args:
      objective: an `Objective`, or a `Microbatch` of one.
      params: its parameters.
      batch: `(x, target)`.
      key: a key for the noise of training; both sides draw the same.

    Raises:
      WrongGradientError: the gradient is not of the tree, shapes and dtypes of what it is by.
      FloatingPointError: the loss, or what jax.grad gives, is not finite on this batch.
      ValueError: nothing here has a gradient.
    """
    batch = jax.tree.map(jnp.asarray, batch)
    _require_gradient_of(objective, params, batch, key)
    compare = jax.jit(functools.partial(_both, objective, key=key))
    found: dict[str, LeafCheck] = {}
    for at in (params, _beside(params)):
        value, rule, auto = jax.tree.map(np.asarray, compare(at, batch))
        with jax.enable_x64(True):
            value64, rule64, exact = jax.tree.map(np.asarray, compare(*_float64((at, batch))))
        if not (np.isfinite(value) and np.isfinite(value64)):
            if at is not params:
                break  # too far: what was compared at the params themselves stands
            raise FloatingPointError(f"the loss is {value} on the batch the gradient is checked on")
        reference = exact if key is None else auto
        for leaf in _leaf_checks(rule64, exact, rule, auto, reference):
            other = found.get(leaf.path)
            found[leaf.path] = leaf if other is None else _worse(leaf, other)
    return CrossCheck(tuple(found.values()))


def _both(
    objective: Objective | Microbatch, params: ObjectiveParams, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient, Gradient]:
    """The loss, its gradient by the rules, and by jax.grad."""
    x, target = batch
    value, rule = _rule(objective, params, batch, key)
    dparams = jax.grad(objective.value, allow_int=True)(params, batch, key)
    whole = _whole(objective)
    dx = jax.grad(lambda x: whole.value(params, (x, target), key), allow_int=True)(x)
    auto = Gradient(dparams.model, dparams.loss, dx)
    return value, rule, jax.tree.map(lambda d: None if d.dtype == float0 else d, auto)


def _rule(
    objective: Objective | Microbatch, params: ObjectiveParams, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient]:
    value, dparams = objective.value_and_grad(params, batch, key)
    # dx, which training has no use for.
    whole = _whole(objective)
    x, target = batch
    y, res = whole.model.forward(params.model, x, key)
    _, _, dy = whole.loss.value_and_grad(params.loss, y, target)
    _, dx = whole.model.backward(params.model, x, res, dy)
    return value, Gradient(*dparams, dx)


def _whole(objective: Objective | Microbatch) -> Objective:
    return objective.objective if isinstance(objective, Microbatch) else objective


def _require_gradient_of(
    objective: Objective | Microbatch, params: ObjectiveParams, batch: PyTree, key: Key
) -> None:
    """Raises unless the gradient has the leaves of params and x, with their shapes and dtypes."""
    _, rule = jax.eval_shape(functools.partial(_rule, objective, key=key), params, batch)
    got, wanted = (
        {
            path: f"{a.dtype}{list(a.shape)}"
            for path, a in named_leaves(tree).items()
            if _is_float(a)
        }
        for tree in (rule, Gradient(*params, batch[0]))
    )
    if not wanted:
        raise ValueError("cross_check: expected a parameter or an input of floats, got none")
    for path in [*wanted, *got]:
        if got.get(path) != wanted.get(path):
            raise WrongGradientError(
                f"the gradient is not of the form of what it is by: expected "
                f"{wanted.get(path, 'nothing')} for {path}, got {got.get(path, 'nothing')}"
            )


def _leaf_checks(
    rule64: Gradient, exact: Gradient, rule: Gradient, auto: Gradient, reference: Gradient
) -> Iterator[LeafCheck]:
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
        yield LeafCheck(path, want64.shape, str(hand.dtype), error64, error, auto_error, bool(ok))


def _worse(a: LeafCheck, b: LeafCheck) -> LeafCheck:
    """Two checks of one leaf as one: the larger errors, and ok only if both are."""
    return dataclasses.replace(
        a,
        error64=max(a.error64, b.error64),
        error=max(a.error, b.error),
        control=max(a.control, b.control),
        ok=a.ok and b.ok,
    )


def _beside(params: PyTree) -> PyTree:
    """The parameters, each moved by a tenth of its leaf's size, or of 1 where the leaf is 0."""
    rng = np.random.default_rng(0)

    def move(p: Any) -> Any:
        if not _is_float(p):
            return p
        wide = np.asarray(p, np.float64)
        size = np.sqrt((wide**2).mean()) if wide.size else 0.0
        return jnp.asarray(wide + 0.1 * (size or 1.0) * rng.normal(size=wide.shape), p.dtype)

    return jax.tree.map(move, params)


def _float64(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.astype(jnp.float64) if _is_float(a) else a, tree)


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


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
