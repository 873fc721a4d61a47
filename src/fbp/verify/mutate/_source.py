"""Locates the source of a function, and of the functions that it uses."""

import ast
import functools
import os
from pathlib import Path
from typing import Any

from fbp.verify.mutate._operators import Place
from fbp.verify.mutate._written import rules_in


class MutateError(ValueError):
    """The target of a mutation, or its tests, cannot be used; the message is one line."""


def realpath(path: str | None) -> str:
    return os.path.realpath(path) if path else ""


def file_of(function: Any) -> str:
    return realpath(function.__code__.co_filename)


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_bytes())


def _named(tree: ast.AST, prefix: str = "") -> list[tuple[str, Any]]:
    """All functions of a tree with their qualified names."""
    found: list[tuple[str, Any]] = []
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                found.append((name, node))
            name += "."
        elif isinstance(node, ast.Lambda):
            found.append((f"{prefix}<lambda>", node))
        found += _named(node, name)
    return found


def located(function: Any) -> list[Place]:
    """The places that may be the source of a function: several if lambdas share a line."""
    code, file = function.__code__, file_of(function)
    if not os.path.exists(file):
        raise MutateError(f"{function.__qualname__}: its source is not in a file ({file})")
    found = []
    for name, node in _named(_tree(file)):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        same = first == code.co_firstlineno and name.endswith(code.co_name)
        args = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        if same and args == list(code.co_varnames[: code.co_argcount]):
            found.append(Place(file, name, node))
    return found


def class_of(file: str, name: str) -> ast.AST | None:
    """The syntax node of the class with a qualified name."""
    node: Any = _tree(file)
    for part in name.replace("<locals>.", "").split("."):
        inside = (n for n in ast.walk(node) if isinstance(n, ast.ClassDef | ast.FunctionDef))
        node = next((n for n in inside if n is not node and n.name == part), None)
        if node is None:
            return None
    return node


def written(file: str, within: ast.AST | None = None, of: str = "") -> list[Place]:
    """The rules that a file gives, see `rules_in`; none if it is not one of Python."""
    if not file.endswith(".py"):
        return []
    tree = _tree(file)
    names = {node: name for name, node in _named(tree)}
    return [Place(file, names[node], node) for node in rules_in(tree, within, of)]


def helpers_of(place: Place, shared: bool, rules: set[str]) -> list[Place]:
    """Functions and methods of the same file that a rule uses.

    Those that other code, such as a forward, uses too are included only if `shared`.
    """
    functions = dict(_named(_tree(place.file)))
    owner = place.name.rpartition(".")[0]
    found = []
    for name in _used(place.node, owner):
        node = functions.get(name)
        if node is None or node is place.node or name in rules or _has_rule(node):
            continue
        users = [user for user, other in functions.items() if name in _used(other, _owner(user))]
        # A helper that only `value` uses too is the rule's own: `value_and_grad` returns both.
        own = {*rules, name, f"{owner}.value"}
        if shared or own.issuperset(users):
            found.append(Place(place.file, name, node))
    return found


def _has_rule(function: Any) -> bool:
    """Whether a decorator gives a function a rule of its own, which makes it a primal."""
    return any(
        name in ast.unparse(decorator)
        for decorator in getattr(function, "decorator_list", ())
        for name in ("custom_vjp", "custom_jvp", "custom_gradient")
    )


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _used(node: ast.AST, owner: str) -> set[str]:
    """The names that a function uses; `self.name` is `name` of its class."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {f"{owner}.{name}" for name in used_of_self(node)}


def used_of_self(node: ast.AST) -> list[str]:
    """The attribute names of all `self.name` in a function."""
    return [
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
    ]
