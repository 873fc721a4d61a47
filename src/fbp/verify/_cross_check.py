"""`fbp.cross_check`: compares the gradient of an objective with jax.grad, leaf by leaf."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._contract import ContractError
from fbp._layer import Key, Params, PyTree
from fbp._microbatch import Microbatch
from fbp._objective import Objective, ObjectiveLike
from fbp._tree import named_leaves
from fbp._turn import value_of
from fbp.verify.judge._measure import leaf_checks, worse
from fbp.verify.report._cross_check import CrossCheck, LeafCheck, WrongGradientError


class Gradient(NamedTuple):
    """The gradient of an objective with respect to its parameters and its input."""

    model: PyTree
    loss: PyTree
    x: PyTree


def cross_check(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key = None
) -> CrossCheck:
    """Compares the hand-written gradient with `jax.grad` of the same objective on one batch.

    The gradients with respect to every parameter and to x, the model's input, are compared at the
    given params, and again at slightly perturbed ones, since weights initialized to 1 and biases
    initialized to 0 hide wrong terms.

    First the algebra: the rule in float64 is compared with jax.grad in float64. A wrong term
    changes a leaf by about its own size, rounding by eps times the length of its sums. The limit is
    eps^(2/3) = 3.7e-11; a model that rounds to float32 internally exceeds it. Then the precision:
    the rule in the working dtype is compared with the float64 gradient. Its error may be 4 times
    that of jax.grad in the same dtype, plus eps^(2/3). (With a key, float64 draws different noise,
    so the reference is then jax.grad in the working dtype.) The scale of an error is the leaf's
    largest element, but at least eps^(1/3) times the largest leaf's: where a gradient cancels to
    zero, rounding may leave that much.

    Args:
      objective: an `Objective`, a `Microbatch` of one, or another `ObjectiveLike` whose x are
        integers.
      params: its parameters.
      batch: `(x, target)`, or what `prepare` takes.
      key: a key for training noise; the rule and jax.grad get the same one.

    Raises:
      WrongGradientError: the gradient has not the tree, shapes and dtypes of params and x.
      FloatingPointError: the loss, or the gradient from jax.grad, is not finite on this batch.
      ValueError: neither params nor x hold floats.
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
    # If the perturbed params overflow, the comparison at the given params stands.
    with contextlib.suppress(FloatingPointError):
        leaves = list(map(worse, leaves, check_at(_beside(params))))
    return CrossCheck(tuple(leaves))


def _both(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient, Gradient]:
    """The loss, its gradient from the rules, and its gradient from jax.grad."""
    value, rule = _rule(objective, params, batch, key)
    dparams = jax.grad(objective.value, allow_int=True)(params, batch, key)
    whole = _whole(objective)
    auto = Gradient(dparams, (), None)
    if isinstance(whole, Objective):
        x, target, model_key, loss_key = whole.inputs(params, batch, key)

        def loss(x: PyTree) -> Any:
            y, _ = whole.model.forward(params.model, x, model_key)
            return value_of(whole.loss, params.loss, y, target, loss_key)

        auto = Gradient(dparams.model, dparams.loss, jax.grad(loss, allow_int=True)(x))
    return value, rule, jax.tree.map(lambda d: None if d.dtype == float0 else d, auto)


def _rule(
    objective: ObjectiveLike, params: Params, batch: PyTree, key: Key
) -> tuple[PyTree, Gradient]:
    value, dparams = objective.value_and_grad(params, batch, key)
    whole = _whole(objective)
    if not isinstance(whole, Objective):
        return value, Gradient(dparams, (), None)
    _, dx = whole.input_grad(params, batch, key)  # value_and_grad does not return it
    return value, Gradient(dparams.model, dparams.loss, dx)


def _whole(objective: ObjectiveLike) -> ObjectiveLike:
    return objective.objective if isinstance(objective, Microbatch) else objective


def _require_gradient_of(objective: ObjectiveLike, params: Params, batch: PyTree, key: Key) -> None:
    """Raises unless the gradient has the leaves of params and x, with their shapes and dtypes."""
    whole = _whole(objective)
    given = Gradient(params, (), None)
    if isinstance(whole, Objective):
        x = jax.eval_shape(lambda: whole.inputs(params, batch, key)[0])
        given = Gradient(params.model, params.loss, x)
    try:
        _, rule = jax.eval_shape(functools.partial(_rule, objective, key=key), params, batch)
    except ContractError as error:
        raise WrongGradientError(str(error)) from None
    got, wanted = (
        {
            path: f"{a.dtype}{list(a.shape)}"
            for path, a in named_leaves(tree).items()
            if _is_float(a)
        }
        for tree in (rule, given)
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
    """The parameters plus normal noise: a tenth of each leaf's RMS, or 0.1 where it is zero."""
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
