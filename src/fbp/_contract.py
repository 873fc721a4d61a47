"""The contract of `_layer`, held to whenever a layer runs: a slip is an error that names the layer.

Only trees and shapes are looked at, so that a jitted program pays nothing. `fbp.check` is what
tests the numbers.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._described import described, short_repr

Method = Callable[..., Any]


class ContractError(ValueError):
    """A layer or a loss does not do what the contract says; the message names it."""


def hold_to_contract(cls: type, base: type) -> None:
    """Wraps the methods that a subclass of `base`, Layer or Loss, defines itself, so that what they
    return is looked at; and gives it a short `repr`."""
    if "__repr__" not in cls.__dict__:  # its own, so that `dataclass` adds none
        inherited = cls.__repr__
        cls.__repr__ = short_repr if inherited is object.__repr__ else inherited  # type: ignore
    wrappers: dict[str, Callable[[Method], Method]] = {
        "forward": _forward,
        "backward": functools.partial(_backward, layer_type=base),
        "value_and_grad": _value_and_grad,
    }
    for name, wrapper in wrappers.items():
        method = cls.__dict__.get(name)
        if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, wrapper(method))


def _forward(method: Method) -> Method:
    kinds = {p.kind for p in inspect.signature(method).parameters.values()}
    takes_key = takes(method, "key") or inspect.Parameter.VAR_POSITIONAL in kinds

    @functools.wraps(method)
    def forward(self: Any, params: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        if not takes_key:
            raise ContractError(
                f"{_name(self)}.forward: expected parameters (params, x, key=None), "
                f"got {_parameters(method)}: add key=None, even where nothing is drawn"
            )
        returned = method(self, params, x, key)
        if type(returned) is not tuple or len(returned) != 2:
            raise ContractError(
                f"{_name(self)}.forward: expected to get y and res, got {described(returned)}: "
                "return (y, ()) where the backward needs nothing but params and x"
            )
        return returned

    return forward


def _backward(method: Method, layer_type: type) -> Method:
    @functools.wraps(method)
    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> tuple[Any, Any]:
        returned = method(self, params, x, res, dy)
        where = f"{_name(self)}.backward"
        if type(returned) is not tuple or len(returned) != 2:
            raise ContractError(
                f"{where}: expected to get dparams and dx, got {described(returned)}: "
                "return ((), dx) for a layer without parameters"
            )
        dparams, dx = returned
        wrong = difference(dx, x)
        # What layers that hold others return in the place of dparams is theirs: see `ports`.
        if not wrong and not _holds(self, layer_type) and (other := difference(dparams, params)):
            raise ContractError(f"{where}: expected dparams to be like params, {other}")
        if wrong:
            swapped = not difference(dparams, x) and not difference(dx, params)
            cure = ": dparams and dx are swapped, return (dparams, dx)" if swapped else ""
            raise ContractError(f"{where}: expected dx to be like x, {wrong}{cure}")
        return returned

    return backward


def _value_and_grad(method: Method) -> Method:
    @functools.wraps(method)
    def value_and_grad(
        self: Any, params: Any, y: Any, target: Any, **options: Any
    ) -> tuple[Any, Any, Any]:
        returned = method(self, params, y, target, **options)
        where = f"{_name(self)}.value_and_grad"
        if type(returned) is not tuple or len(returned) != 3:
            raise ContractError(
                f"{where}: expected to get value, dparams and dy, got {described(returned)}: "
                "return (value, (), dy) for a loss without parameters"
            )
        value, dparams, dy = returned
        if np.shape(value) != ():
            raise ContractError(
                f"{where}: expected a scalar value, got shape {np.shape(value)}: "
                "a loss is a mean over the examples"
            )
        for what, got, like, name in (("dparams", dparams, params, "params"), ("dy", dy, y, "y")):
            if wrong := difference(got, like):
                raise ContractError(f"{where}: expected {what} to be like {name}, {wrong}")
        return returned

    return value_and_grad


def difference(gradient: Any, value: Any) -> str:
    """How a gradient differs from what it is the gradient of; "" where it does not.

    It has the tree and the shapes of the value, and None for what is not a float.
    """
    tree: Any
    leaves, tree = jax.tree_util.tree_flatten_with_path(value)
    try:
        gradients = tree.flatten_up_to(gradient)
    except (ValueError, TypeError):
        return f"{described(value)}, got {described(gradient)}"
    for (keys, leaf), d in zip(leaves, gradients, strict=True):
        place = jax.tree_util.keystr(keys)
        at = f" at {place}" if place else ""
        if not is_float(leaf):
            if d is not None:
                return f"None{at} ({described(leaf)} has no gradient), got {described(d)}"
        elif d is None:
            return f"{described(leaf)}{at}, got None: return zeros where the gradient is zero"
        elif not jax.tree_util.all_leaves([d]) or np.shape(d) != np.shape(leaf):
            return f"{described(leaf)}{at}, got {described(d)}"
    return ""


def is_float(leaf: Any) -> bool:
    """Whether a leaf has a gradient."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.result_type(type(leaf))), jnp.inexact)


def _holds(layer: Any, layer_type: type) -> bool:
    """Whether a layer is made of others: of layers in its fields, or in containers in them."""
    fields = list(getattr(layer, "__dict__", {}).values())
    held = jax.tree.leaves(fields, is_leaf=lambda a: isinstance(a, layer_type))
    return any(isinstance(a, layer_type) for a in held)


def _name(owner: Any) -> str:
    return type(owner).__name__


def takes(f: Any, name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(f).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return False


def _parameters(method: Method) -> str:
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    return f"({', '.join(names)})"
