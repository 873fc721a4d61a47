"""Finds the functions that are the backward of a target."""

import functools
import inspect
import os
import sys
from types import ModuleType
from typing import Any

from fbp.verify.mutate._operators import Place
from fbp.verify.mutate._source import (
    MutateError,
    class_of,
    file_of,
    helpers_of,
    located,
    realpath,
    used_of_self,
    written,
)
from fbp.verify.registry._named import CheckError, load_module, load_object, split_name

# The methods of a class that are its chain rule.
_METHODS = ("backward", "recompute", "value_and_grad")


def places_of(target: Any, helpers: bool = False) -> list[Place]:
    """The functions that compute the gradient of a target.

    Args:
      target: a custom_vjp or custom_jvp function, a class with a `backward` or a `value_and_grad`,
        a function that is a backward, a module; or a name, "pkg.module:name", "file.py:name".
      helpers: whether to include helper functions that the forward uses too.

    Raises:
      MutateError: the target cannot be found, or has no backward.
    """
    what = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
    name, file = what, ""
    if isinstance(target, str):
        target, file, name = _loaded(target)
    found = _places(target, file, name.rpartition(".")[2])
    if not found:
        raise MutateError(
            f"{what} has no backward rule: no custom_vjp with a bwd, no custom_jvp with a jvp, no "
            "class with a backward or a value_and_grad"
        )
    places = {(p.file, p.node.lineno, p.node.col_offset): p for p in found}
    pending = list(places.values())
    for place in pending:
        for helper in helpers_of(place, helpers, {p.name for p in places.values()}):
            places[helper.file, helper.node.lineno, helper.node.col_offset] = helper
            pending.append(helper)
    return sorted(places.values(), key=lambda p: (p.file, p.node.lineno))


def _places(target: Any, file: str, name: str) -> list[Place]:
    """The rules that a target has, and those that its source gives.

    Where there are none, those that its file gives to its name, and at last the target itself.
    """
    found = [place for function in _functions(target) for place in located(function)]
    if isinstance(target, ModuleType):
        return found + written(realpath(target.__file__))
    target = _unwrapped(target)
    function = getattr(target, "__func__", target)
    if isinstance(target, type):
        file = _class_file(target)
        found += written(file, within=class_of(file, target.__qualname__)) if file else []
    elif inspect.isfunction(function):
        file = file_of(function)
        for place in located(function):
            found += written(file, within=place.node)
    if not found and file:
        found = written(file, of=name)
    return found or (located(function) if inspect.isfunction(function) else [])


def _loaded(text: str) -> tuple[Any, str, str]:
    """The object that "pkg.module:name" or "file.py:name" names, the file, and the name."""
    where, name = split_name(text)
    try:
        module = load_module(where)
    except CheckError as error:
        raise MutateError(str(error)) from error
    file = realpath(module.__file__)
    try:
        return load_object(module, name) if name else module, file, name
    except CheckError as error:
        has = [n for n, v in vars(module).items() if _is_rule(v, module)]
        said = f"{where} has no {name}; it has {', '.join(has)}" if has else str(error)
        raise MutateError(said) from None


def _is_custom(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.custom_vjp | jax.custom_jvp)


def _is_rule(value: Any, module: ModuleType) -> bool:
    """Whether a value of a module has a backward rule that is written in that module."""
    if isinstance(value, type):
        return value.__module__ == module.__name__ and bool(_functions(value))
    if not _is_custom(value) and not _is_custom(_unwrapped(value)):
        return False
    return any(file_of(f) == realpath(module.__file__) for f in _functions(value))


def _unwrapped(value: Any) -> Any:
    while isinstance(value, functools.partial):
        value = value.func
    return inspect.unwrap(value, stop=_is_custom) if callable(value) else value


def _functions(target: Any) -> list[Any]:
    """The Python functions that compute the gradient of a target."""
    if isinstance(target, ModuleType):
        return [
            f
            for value in list(vars(target).values())
            if _is_rule(value, target)
            for f in _functions(value)
            if file_of(f) == realpath(target.__file__)
        ]
    target = _unwrapped(target)
    if _is_custom(target):
        rules = [getattr(target, "bwd", None) or getattr(target, "jvp", None)]
        rules = [_unwrapped(rule) for rule in rules if rule is not None]
        return [f for rule in rules for f in _jvps(rule)]
    if inspect.isroutine(target):
        target = getattr(target, "__func__", target)
        held = [target.__globals__.get(name) for name in target.__code__.co_names]
        held += [cell.cell_contents for cell in target.__closure__ or ()]
        return [f for value in held if _is_custom(value) for f in _functions(value)]
    if not isinstance(target, type):
        target = type(target)
    return _methods(target)


def _methods(owner: type) -> list[Any]:
    """The methods that are a class's chain rule: those defined in it, or in its file."""
    found: dict[Any, int] = {}
    for name in (*_METHODS, "weight") if hasattr(owner, "value_and_grad") else _METHODS:
        depth, method = _found(owner, name)
        found[method] = depth
        # An inherited rule calls methods that its subclasses define, so these are part of the rule.
        # An inherited `recompute` calls methods of the forward, which are not.
        if depth and method and name != "recompute" and os.path.exists(file_of(method)):
            parts = [part for place in located(method) for part in used_of_self(place.node)]
            written = [_found(owner, part) for part in parts]
            found |= {part: above for above, part in written if above < depth}
    file = _class_file(owner)
    return [m for m, depth in found.items() if m and (depth == 0 or file_of(m) == file)]


def _found(owner: type, name: str) -> tuple[int, Any]:
    """How many classes up the MRO a method is defined, and the method, or None."""
    for depth, base in enumerate(owner.__mro__):
        if name in vars(base):
            method = _unwrapped(vars(base)[name])
            abstract = getattr(method, "__isabstractmethod__", False)
            return depth, method if inspect.isfunction(method) and not abstract else None
    return 0, None


def _class_file(owner: type) -> str:
    return realpath(getattr(sys.modules.get(owner.__module__), "__file__", None))


def _jvps(rule: Any) -> list[Any]:
    """The functions of a rule: several if it is one that `defjvps` of jax made of them."""
    if not inspect.isfunction(rule):
        return []
    if rule.__module__.startswith("jax."):
        held = [cell.cell_contents for cell in rule.__closure__ or ()]
        inner = [f for value in held if isinstance(value, tuple) for f in value if f is not None]
        return [f for f in map(_unwrapped, inner) if inspect.isfunction(f)]
    return [rule]
