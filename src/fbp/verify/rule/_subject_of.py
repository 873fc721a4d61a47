"""Makes a `Subject` from the arguments of `fbp.check`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._custom_vjp import layer_function, loss_function, objective_function
from fbp._layer import Layer, Loss, name_of
from fbp._tree import path_of
from fbp.verify.program._dtypes import is_float
from fbp.verify.rule._subject import Leaf, Subject, describe


def subject_of(f: Any, args: Sequence[Any], argnums: int | Sequence[int] | None = None) -> Subject:
    """Brings a JAX function, a layer, a loss or an objective, with its arguments, into one form.

    Raises:
      TypeError: f is none of these; the number of arguments or the type of argnums is wrong.
      ValueError: no argument to differentiate holds floats; argnums is out of range.
    """
    original = f
    name = _name(f)
    fixed: set[int] = set()
    if isinstance(f, Layer):
        _expect(f, args, "params, x[, key]", (2, 3))
        f = layer_function(f)
        names = ["params", "x", "key"]
    elif isinstance(f, Loss):
        if len(args) == 2:
            args = ((), *args)
            if argnums is not None:  # argnums were counted without the params
                counted = (argnums,) if isinstance(argnums, int) else argnums
                argnums = [n + 1 if n >= 0 else n for n in counted]
        _expect(f, args, "[params,] y, target", (3,))
        f, names, fixed = loss_function(f), ["params", "y", "target"], {2}
    elif _is_objective(f):
        _expect(f, args, "params, batch[, key]", (2, 3))
        f, names, fixed = objective_function(f), ["params", "batch", "key"], {1, 2}
    elif callable(f):
        names = _argument_names(f, args)
    else:
        got = f"{f!r:.80}".replace("\n", " ")
        raise TypeError(f"expected a function, a Layer, a Loss or an Objective, got {got}")
    if argnums is not None:
        chosen = {argnums} if isinstance(argnums, int | str) else set(argnums)
        for n in chosen:
            if not isinstance(n, int) or isinstance(n, bool):
                raise TypeError(f"{name}: expected argnums of integers, got {argnums!r}")
            if not -len(args) <= n < len(args):
                raise ValueError(f"{name}: expected argnums within {len(args)} arguments, got {n}")
        fixed |= set(range(len(args))) - {n % len(args) for n in chosen}
    static = _nondiff_argnums(f)

    leaves: list[Leaf] = []
    slots: list[Any] = []
    is_slot: list[bool] = []
    entries, treedef = jax.tree_util.tree_flatten_with_path(tuple(args))
    for keys, value in entries:
        top = keys[0].idx
        path = ".".join(filter(None, [names[top], path_of(keys[1:])]))
        array = None if top in static else _array(value, is_argument=len(keys) == 1)
        is_slot.append(array is not None)
        slots.append(value if array is None else len(leaves))
        if array is not None:
            leaves.append(Leaf(path, array, is_float(array) and top not in fixed))
    if not any(leaf.differentiable for leaf in leaves):
        got = ", ".join(f"{leaf.path} {describe(leaf.value)}" for leaf in leaves)
        got = got or ", ".join(type(value).__name__ for _, value in entries) or "none"
        got += "" if argnums is None else f", and argnums={argnums!r}"
        raise ValueError(f"{name}: expected an argument with floats to differentiate, got {got}")
    call = f

    def arguments(values: Sequence[Any]) -> tuple[Any, ...]:
        filled = [values[s] if is_array else s for s, is_array in zip(slots, is_slot, strict=True)]
        return jax.tree.unflatten(treedef, filled)

    def on_leaves(values: Sequence[Any]) -> list[Any]:
        outs = jax.tree.leaves(call(*arguments(values)))
        return [y if hasattr(y, "dtype") else jnp.asarray(y) for y in outs]

    rest = tuple(s if is_array else repr(s) for s, is_array in zip(slots, is_slot, strict=True))
    identity: Any = (original, treedef, rest, tuple(sorted(fixed)))
    try:
        hash(identity)
    except TypeError:
        identity = None
    wide = [str(leaf.value.dtype) in ("float64", "complex128") for leaf in leaves]
    in_float64 = jax.config.read("jax_enable_x64") and any(wide)
    return Subject(name, on_leaves, tuple(leaves), identity, original, arguments, in_float64)


def _is_objective(f: Any) -> bool:
    """Whether it has the methods of an `ObjectiveLike`."""
    methods = ("init", "value", "value_and_grad", "weight")
    return not isinstance(f, type) and all(callable(getattr(f, name, None)) for name in methods)


def _array(value: Any, is_argument: bool) -> Any:
    """The value as an array, or None if it is a Python value that stays as it is.

    A Python number is an array if it is an argument itself. Inside a tree, as the rate of a dropout
    layer, the program may branch on it.
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return value if isinstance(value, jax.Array) else np.asarray(value)
    if isinstance(value, float | complex) and is_argument:
        return np.asarray(jnp.asarray(value))
    return None


def _expect(owner: Any, args: Sequence[Any], what: str, counts: tuple[int, ...]) -> None:
    if len(args) not in counts:
        raise TypeError(f"{name_of(owner)}: expected {what}, got {len(args)} arguments")


def _name(f: Any) -> str:
    if isinstance(f, Layer | Loss) or _is_objective(f):
        return name_of(f)
    name = getattr(f, "__name__", None) or getattr(getattr(f, "func", None), "__name__", None)
    return str(name or type(f).__name__)


def _argument_names(f: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    try:
        parameters = inspect.signature(f, follow_wrapped=False).parameters.values()
        if any(p.kind == p.VAR_POSITIONAL for p in parameters):
            # A wrapper that takes any arguments, such as `jax.vmap(f)`, has those of the wrapped f.
            parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    names: list[str] = []
    for p in parameters:
        if p.kind == p.VAR_POSITIONAL:
            names += [f"{p.name}.{i}" for i in range(len(args) - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    return names[: len(args)] + [f"arg{i}" for i in range(len(names), len(args))]


def _nondiff_argnums(f: Any) -> set[int]:
    """The `nondiff_argnums` of a rule, also if the rule is jitted."""
    while hasattr(f, "lower") and hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    is_rule = isinstance(f, jax.custom_vjp | jax.custom_jvp)
    return set(f.nondiff_argnums) if is_rule else set()
