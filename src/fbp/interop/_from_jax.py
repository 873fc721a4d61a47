"""Makes layers, losses and objectives of JAX functions, with their backward by autodiff."""

from collections.abc import Callable
from typing import Any

from fbp._described import described
from fbp._layer import Array, Params, PyTree
from fbp.interop._autodiff import Autodiff, AutodiffLoss, AutodiffObjective


def from_jax(
    f: Callable[..., PyTree],
    init: Callable[[Array], Params] | None = None,
    name: str | None = None,
) -> Autodiff:
    """Makes a layer of any JAX function, with its backward by autodiff.

    Use it for a function that has no rule written by hand. The layer works in a `Serial` or a
    `Stack` like any other; its `repr` and `fbp.summary` show it as `Autodiff`.

    Args:
      f: f(params, x) -> y, of trees of arrays. If it has a parameter called `key`, that is the key
        in training, and None in evaluation.
      init: init(key) -> params; without it f has no parameters and is given ().
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f or init is not a function, or f cannot be hashed, as a layer must be: a callable
        that holds arrays should take them as params.
    """
    _require_functions("from_jax", f=f, init=init)
    return Autodiff(f, init, name or _name(f))


def loss_from_jax(
    f: Callable[..., Array],
    init: Callable[[Array], Params] | None = None,
    weight: Callable[[PyTree], Any] | None = None,
    name: str | None = None,
) -> AutodiffLoss:
    """Makes a loss of any JAX function, with its gradient by autodiff.

        fbp.loss_from_jax(lambda y, target: optax.squared_error(y, target).mean())

    Args:
      f: f(y, target) -> a scalar, a mean over the examples; with `init` f(params, y, target). If it
        has a parameter called `key`, that is the key in training, and None in evaluation.
      init: init(key) -> params.
      weight: weight(target) -> how much a target counts as a part of a larger one; by default the
        number of examples, the size of its first axis.
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f, init or weight is not a function, or f cannot be hashed.
      ValueError: f does not return a scalar.
    """
    _require_functions("loss_from_jax", f=f, init=init, weight=weight)
    return AutodiffLoss(f, init, weight, name or _name(f))


def objective_from_jax(
    f: Callable[..., Any],
    init: Callable[[Array], Params],
    has_aux: bool = False,
    name: str | None = None,
) -> AutodiffObjective:
    """Makes an objective of any JAX function, with its gradient by autodiff.

    `fbp.step_of` trains it and `fbp.check` and the rest take it, as any other objective.

    Args:
      f: f(params, batch) -> a scalar, a mean over the examples of the batch. If it has a parameter
        called `key`, that is the key in training, and None in evaluation.
      init: init(key) -> params.
      has_aux: f returns (value, aux), as for `jax.value_and_grad`.
      name: the name of f in reports; by default `f.__name__`.

    Raises:
      TypeError: f or init is not a function, or f cannot be hashed.
      ValueError: the value is not a scalar.
    """
    if init is None:
        raise TypeError("objective_from_jax: expected init(key) -> params, got None")
    _require_functions("objective_from_jax", f=f, init=init)
    return AutodiffObjective(f, init, has_aux, name or _name(f))


def _require_functions(owner: str, **functions: Any) -> None:
    for what, value in functions.items():
        if not (callable(value) or (what != "f" and value is None)):
            raise TypeError(f"{owner}: expected {what} to be a function, got {described(value)}")
    try:
        hash(functions["f"])
    except TypeError:
        kind = type(functions["f"]).__name__
        raise TypeError(f"{owner}: expected f to be hashable, got {kind}, which is not") from None


def _name(f: Any) -> str:
    return str(getattr(f, "__name__", type(f).__name__))
