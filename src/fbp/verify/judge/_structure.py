"""The form of a rule's gradients, before jax converts them, and the rule's side effects."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from fbp._tree import path_of
from fbp.verify.program._dtypes import is_float, is_key
from fbp.verify.program._program import evaluate
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject

_PLAIN = (int, float, str, bool, type(None), list, dict, set, tuple)


def misformed(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the form of a rule, as (path of the gradient or "", one line).

    jax silently accepts zeros of any kind for an integer argument, and silently casts a gradient of
    another dtype. So the forward and backward of a `custom_vjp` function are called directly.
    """
    f = _with_rule(subject.original)
    if f is None or getattr(f, "symbolic_zeros", False):
        return
    before = _held_by(f)
    static = set(getattr(f, "nondiff_argnums", ()) or ())
    names = [leaf.path for leaf in subject.leaves]
    said: list[tuple[str, str]] = []

    def rule(values: Any) -> None:
        given = subject.arguments(values)
        out, res = f.fwd(*given)
        zero = jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), out)
        grads = f.bwd(*[a for i, a in enumerate(given) if i in static], res, zero)
        if isinstance(grads, tuple | list):
            said.extend(_compare(given, static, grads, names))

    for _ in range(2):
        said.clear()
        try:
            jax.eval_shape(functools.partial(rule), subject.values)  # a new object: traced again
        except Exception:
            return  # reported by the stage that runs into it
    yield from said
    for name, now in _held_by(f).items():
        if before.get(name, now) != now:
            yield "", f"the rule has a side effect: it changes `{name}`"


def wrong_integers(runs: Runs) -> Iterator[str]:
    """Yields the outputs without floats in which the rule's forward differs from the function.

    They have no gradient, so no other comparison includes them.
    """
    subject = runs.subject
    values = runs.narrow(subject.values)
    if all(map(is_float, runs.plain.out_avals)):
        return

    def forward(values: list[Any]) -> Any:
        floats = [values[i] for i in subject.differentiable]
        return jax.vjp(lambda new: subject.f(subject.filled(values, new)), floats)[0]

    given = jax.jit(forward)(values)
    for i, (got, own) in enumerate(zip(given, evaluate(runs.plain, *values), strict=True)):
        if is_float(own) or is_key(own):
            continue
        differ = int(np.sum(np.asarray(got) != np.asarray(own)))
        if differ:
            yield (
                f"output {i} of the rule's forward differs from {runs.own} in {differ} of "
                f"{own.size} {own.dtype} elements"
            )


def _with_rule(f: Any) -> Any:
    """f, unwrapped from jit, if it is itself a `custom_vjp`; None if it only calls one or none."""
    while hasattr(f, "lower") and hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    return f if isinstance(f, jax.custom_vjp) and f.bwd is not None else None


def _compare(
    args: tuple[Any, ...], static: set[int], grads: Any, names: list[str]
) -> Iterator[tuple[str, str]]:
    def is_none(value: Any) -> bool:
        return value is None

    tops: dict[int, str] = {}
    flat = iter(names)
    for i, arg in enumerate(args):
        arrays = [a for a in jax.tree.leaves(arg) if hasattr(a, "dtype")]
        paths = [next(flat, "") for _ in arrays] if i not in static else []
        tops[i] = paths[0].split(".")[0] if paths else f"argument {i}"
    given = [(i, a) for i, a in enumerate(args) if i not in static]
    for i, arg in given[len(grads) :]:
        yield from ((path, f"there is no gradient by {path}") for path in _paths(tops[i], arg))
    for (i, arg), grad in zip(given, grads, strict=False):
        if grad is None:
            continue
        trees: list[Any] = [jax.tree.structure(t, is_leaf=is_none) for t in (grad, arg)]
        if trees[0] != trees[1]:
            kind = type(grad).__name__
            for path in _paths(tops[i], arg):
                yield path, f"the gradient by {tops[i]} is a {kind} of another tree than {tops[i]}"
            continue
        wanted = jax.tree_util.tree_flatten_with_path(arg, is_leaf=is_none)[0]
        got = jax.tree_util.tree_leaves(grad, is_leaf=is_none)
        if len(got) != len(wanted):
            continue
        for (keys, a), d in zip(wanted, got, strict=True):
            if d is None or not (hasattr(a, "dtype") and hasattr(d, "dtype")):
                continue
            path = ".".join(filter(None, [tops[i], path_of(keys)]))
            if jnp.issubdtype(a.dtype, jnp.inexact):
                if d.shape != a.shape:
                    yield path, f"the gradient by {path} is of shape {d.shape}, expected {a.shape}"
                elif d.dtype not in (a.dtype, jax.dtypes.canonicalize_dtype(a.dtype)):
                    yield path, f"the gradient by {path} is of dtype {d.dtype}, expected {a.dtype}"
            elif d.dtype != float0:
                yield (
                    path,
                    f"the gradient by the {a.dtype} argument {path} is {d.dtype}, "
                    "expected None or float0 zeros",
                )


def _paths(top: str, arg: Any) -> list[str]:
    entries = jax.tree_util.tree_flatten_with_path(arg)[0]
    return [".".join(filter(None, [top, path_of(keys)])) for keys, _ in entries]


def _held_by(f: Any) -> dict[str, str]:
    """The current values of the plain variables that the rule's functions close over or read."""
    held: dict[str, str] = {}
    for rule in (f.fwd, f.bwd):
        for function in _functions(rule):
            code = getattr(function, "__code__", None)
            if code is None:
                continue
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
                try:
                    value = cell.cell_contents
                except ValueError:
                    continue
                if isinstance(value, _PLAIN):
                    held[name] = repr(value)[:2000]
            for name in code.co_names:
                value = function.__globals__.get(name)
                if name in function.__globals__ and isinstance(value, _PLAIN):
                    held[name] = repr(value)[:2000]
    return held


def _functions(rule: Callable[..., Any]) -> Iterator[Any]:
    """Yields a function and the functions it closes over."""
    seen: set[int] = set()
    stack = [rule]
    while stack:
        function = stack.pop()
        if isinstance(function, functools.partial):
            stack.append(function.func)
            continue
        if id(function) in seen or not hasattr(function, "__code__"):
            continue
        seen.add(id(function))
        yield function
        for cell in getattr(function, "__closure__", None) or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if callable(value):
                stack.append(value)
