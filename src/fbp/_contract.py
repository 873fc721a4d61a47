"""The contract of `_layer`, held to whenever a layer runs: a slip is an error that names the layer.

Only trees and shapes are looked at, so that a jitted program pays nothing. `fbp.check` is what
tests the numbers.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
    takes_key = _takes(method, "key")

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


def described(value: Any) -> str:
    """A value in a few words, for an error: never an address, never the numbers of an array."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if _is_array(value):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(map(str, value)))}" if value else "{}"
    if value == () and type(value) is tuple:
        return "()"
    if type(value) in (tuple, list):
        inside = ", ".join(described(v) for v in value[:4]) + (", ..." if len(value) > 4 else "")
        return f"{type(value).__name__} ({inside})"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{value!r:.60}"
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    text = repr(value)
    return text if len(text) <= 60 and " at 0x" not in text else _with_article(type(value).__name__)


def _with_article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def short_repr(value: Any) -> str:
    """A layer as it is written, without what is at its default: `Dense(n_in=3, n_out=5)`."""
    shown = []
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        held = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        same = held is default or (not _is_array(held) and bool(held == default))
        if field.repr and field.init and not same:
            shown.append(f"{field.name}={as_written(held)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def as_written(value: Any) -> str:
    """A value in a `repr`: functions and dtypes by their names, arrays by their shapes."""
    if _is_array(value):
        return described(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return str(getattr(value, "__name__", value))
    if type(value) is tuple:
        inside = ", ".join(map(as_written, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if type(value) is dict:
        return "{" + ", ".join(f"{k!r}: {as_written(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_float(leaf: Any) -> bool:
    """Whether a leaf has a gradient."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.result_type(type(leaf))), jnp.inexact)


def _holds(layer: Any, layer_type: type) -> bool:
    """Whether a layer is made of others: of layers in its fields, or in containers in them."""
    fields = list(getattr(layer, "__dict__", {}).values())
    held = jax.tree.leaves(fields, is_leaf=lambda a: isinstance(a, layer_type))
    return any(isinstance(a, layer_type) for a in held)


def require_single_positions(layer: Any, x: Any) -> None:
    """Raises TypeError where `forward` reads other positions of a sequence and `step` cannot.

    Three positions are run together and one by one, with drawn numbers. A layer that has not drawn
    params of its own, or that takes other shapes, is not tried.

    Args:
      layer: a layer that inherits `start`, `step` and `steps`.
      x: the input at one position, or its shapes and dtypes.
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype), x)
    leaves, tree = jax.tree.flatten(shapes)
    try:
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
            apart = _reads_other_positions(layer, tuple(leaves), tree)
    except Exception:
        return
    if apart:
        raise TypeError(
            f"{_name(layer)}: expected start and step, since its forward reads other positions of "
            "a sequence than its own: without them sampling computes another function than forward"
        )


@functools.lru_cache(maxsize=256)
def _reads_other_positions(layer: Any, leaves: tuple[Any, ...], tree: Any) -> bool:
    rng = np.random.default_rng(0)

    def drawn(a: Any) -> tuple[Any, int]:
        # Floats are (..., T, n), integers (..., T).
        axis = max(len(a.shape) - 1, 0) if jnp.issubdtype(a.dtype, jnp.inexact) else len(a.shape)
        shape = (*a.shape[:axis], 3, *a.shape[axis:])
        if jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(rng.normal(size=shape), a.dtype), axis
        return jnp.asarray(rng.integers(2, size=shape), a.dtype), axis

    values, axes = zip(*map(drawn, leaves), strict=True)
    params = layer.init(jax.random.key(0))
    together, _ = layer.forward(params, tree.unflatten(values))
    for t in range(3):
        one = [lax.dynamic_slice_in_dim(a, t, 1, k) for a, k in zip(values, axes, strict=True)]
        alone, _ = layer.forward(params, tree.unflatten(one))
        for whole, part in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            here = lax.dynamic_slice_in_dim(whole, t, 1, axes[0])
            scale = np.abs(np.asarray(whole, np.float64)).max(initial=1e-30)
            error = np.abs(np.asarray(here, np.float64) - np.asarray(part, np.float64))
            if error.max(initial=0.0) > 1e-4 * scale:
                return True
    return False


def _name(owner: Any) -> str:
    return type(owner).__name__


def _takes(method: Method, name: str) -> bool:
    parameters = inspect.signature(method).parameters.values()
    return any(p.name == name or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _parameters(method: Method) -> str:
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    return f"({', '.join(names)})"
