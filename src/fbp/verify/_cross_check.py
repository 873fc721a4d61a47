"""The hand-written gradient of an objective beside jax.grad, leaf by leaf."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._layer import Key, Params, PyTree
from fbp._microbatch import Microbatch
from fbp._objective import Objective, ObjectiveLike
from fbp._tree import named_leaves
from fbp.verify.judge._measure import leaf_checks, worse
from fbp.verify.report._cross_check import CrossCheck, LeafCheck, WrongGradientError


class Gradient(NamedTuple):
    """The gradient of an objective by everything that has one; its leaves are what is compared."""

    model: PyTree
    loss: PyTree
    x: PyTree


def cross_check(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key = None
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
      objective: an `Objective`, a `Microbatch` of one, or another that can be asked the same, of
        integers x.
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

    def check_at(params: Params) -> list[LeafCheck]:
        value, rule, auto = jax.tree.map(np.asarray, compare(params, batch))
        with jax.enable_x64(True):
            value64, rule64, exact = jax.tree.map(np.asarray, compare(*_float64((params, batch))))
        if not (np.isfinite(value) and np.isfinite(value64)):
            raise FloatingPointError(f"the loss is {value} on the batch the gradient is checked on")
        return leaf_checks(rule64, exact, rule, auto, exact if key is None else auto)

    leaves = check_at(params)
    # A step too far, where numbers overflow, takes nothing from what stands at the params.
    with contextlib.suppress(FloatingPointError):
        leaves = list(map(worse, leaves, check_at(_beside(params))))
    return CrossCheck(tuple(leaves))


def _both(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient, Gradient]:
    """The loss, its gradient by the rules, and by jax.grad."""
    x, target = batch
    value, rule = _rule(objective, params, batch, key)
    dparams = jax.grad(objective.value, allow_int=True)(params, batch, key)
    whole = _whole(objective)
    auto = Gradient(dparams, (), None)
    if isinstance(whole, Objective):
        dx = jax.grad(lambda x: whole.value(params, (x, target), key), allow_int=True)(x)
        auto = Gradient(dparams.model, dparams.loss, dx)
    return value, rule, jax.tree.map(lambda d: None if d.dtype == float0 else d, auto)


def _rule(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient]:
    value, dparams = objective.value_and_grad(params, batch, key)
    whole = _whole(objective)
    if not isinstance(whole, Objective):
        return value, Gradient(dparams, (), None)
    # dx, which training has no use for.
    x, target = batch
    y, res = whole.model.forward(params.model, x, key)
    _, _, dy = whole.loss.value_and_grad(params.loss, y, target)
    _, dx = whole.model.backward(params.model, x, res, dy)
    return value, Gradient(dparams.model, dparams.loss, dx)


def _whole(objective: ObjectiveLike) -> ObjectiveLike:
    return objective.objective if isinstance(objective, Microbatch) else objective


def _require_gradient_of(objective: ObjectiveLike, params: Params, batch: PyTree, key: Key) -> None:
    """Raises unless the gradient has the leaves of params and x, with their shapes and dtypes."""
    given: Any = params if isinstance(_whole(objective), Objective) else (params, ())
    _, rule = jax.eval_shape(functools.partial(_rule, objective, key=key), params, batch)
    got, wanted = (
        {
            path: f"{a.dtype}{list(a.shape)}"
            for path, a in named_leaves(tree).items()
            if _is_float(a)
        }
        for tree in (rule, Gradient(given[0], given[1], batch[0]))
    )
    if not wanted:
        raise ValueError("cross_check: expected a parameter or an input of floats, got none")
    for path in [*wanted, *got]:
        if got.get(path) != wanted.get(path):
            raise WrongGradientError(
                f"the gradient is not of the form of what it is by: expected "
                f"{wanted.get(path, 'nothing')} for {path}, got {got.get(path, 'nothing')}"
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
