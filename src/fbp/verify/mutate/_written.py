"""Finds backward rules in a source, also those that no object of the module leads to.

Rules are made in factories, methods and class bodies, given to a function by another function, and
wrapped by the decorators of other libraries. All of them are in the source: `f.defvjp(fwd, bwd)`,
or `@f.defjvp`.
"""

import ast
from collections.abc import Iterator
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# The methods that give a function its rule, those of equinox among them: which of the arguments are
# the rule, by place or by name. None is all of them.
_GIVING: dict[str, tuple[int | None, str]] = {
    **{"defvjp": (1, "bwd"), "def_bwd": (0, "bwd"), "defjvp": (0, "jvp")},
    **{"def_jvp": (0, "jvp"), "defjvps": (None, "")},
}


def rules_in(tree: ast.Module, within: ast.AST | None = None, of: str = "") -> list[Function]:
    """The functions that a source makes backward rules.

    Args:
      tree: the source.
      within: only those that are given in this part of it.
      of: only those of the function with this name.
    """
    source = _Source(tree)
    found: list[Function] = []
    for node in ast.walk(within or tree):
        found += [f for name, f in source.given(node) if not of or name == of]
    return list(dict.fromkeys(found))


class _Source:
    """A syntax tree, each node with the one it is a part of."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.parent = {c: n for n in ast.walk(tree) for c in ast.iter_child_nodes(n)}

    def given(self, node: ast.AST) -> Iterator[tuple[str, Function]]:
        """The rules that a node gives, each with the name of the function that it gives it to."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            place, name = _GIVING.get(node.func.attr, (-1, ""))
            if place is None:
                rules = list(node.args)
            else:
                rules = [node.args[place]] if 0 <= place < len(node.args) else []
                rules += [k.value for k in node.keywords if name and k.arg == name]
            for rule in rules:
                yield from ((_last(node.func.value), f) for f in self.functions(rule))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for decorator in node.decorator_list:
            # Also `@functools.partial(f.defjvp, symbolic_zeros=True)`.
            for part in [decorator, *getattr(decorator, "args", ())]:
                if isinstance(part, ast.Attribute) and part.attr in _GIVING:
                    yield _last(part.value), node
            if _last(decorator) == "custom_gradient":
                yield from ((node.name, f) for f in self._returned(node))

    def _returned(self, function: Any) -> Iterator[Function]:
        """The second of the two that a function returns, which `jax.custom_gradient` calls."""
        for node in ast.walk(function):
            pair = node.value if isinstance(node, ast.Return) else None
            if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
                yield from self.functions(pair.elts[1])

    def functions(self, value: ast.AST) -> list[Function]:
        """The functions that an expression may be, through `partial`, `jit` and the like."""
        if isinstance(value, ast.Lambda):
            return [value]
        if isinstance(value, ast.Call):
            found = map(self.functions, [*value.args, *(k.value for k in value.keywords)])
            return next((f for f in found if f), [])
        if isinstance(value, ast.IfExp):
            return [*self.functions(value.body), *self.functions(value.orelse)]
        if isinstance(value, ast.Name):
            return self._defined(value.id, value)
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
            owner = self._owner(value.value)
            return self._in_body(value.attr, owner) if owner else []
        return []

    def _owner(self, name: ast.Name) -> ast.AST | None:
        """The class that `self`, `cls` or its own name means."""
        node: ast.AST | None = name
        while node is not None:
            node = self.parent.get(node)
            if isinstance(node, ast.ClassDef) and name.id in ("self", "cls", node.name):
                return node
        classes = (n for n in ast.walk(self.tree) if isinstance(n, ast.ClassDef))
        return next((n for n in classes if n.name == name.id), None)

    def _defined(self, name: str, at: ast.AST) -> list[Function]:
        """The functions that a name may mean: those of the innermost scope that has any."""
        scope: ast.AST | None = at
        is_first = True
        while scope is not None:
            scope = self.parent.get(scope)
            # Methods do not see the names of their class; its body does.
            seen = isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef)
            if seen or (is_first and isinstance(scope, ast.ClassDef)):
                is_first = False
                found = self._in_body(name, scope)
                if found:
                    return found
        return []

    def _in_body(self, name: str, scope: Any) -> list[Function]:
        """The functions of that name which a scope itself defines, not one inside of it."""
        found: list[Function] = []
        pending = list(scope.body)
        while pending:
            node = pending.pop(0)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [node] if node.name == name else []
            elif isinstance(node, ast.Assign) and _names(node) == [name]:
                found += [] if _last(node.value) == name else self.functions(node.value)
            elif not isinstance(node, ast.ClassDef):
                pending += [c for c in ast.iter_child_nodes(node) if isinstance(c, ast.stmt)]
        return found


def _names(node: ast.Assign) -> list[str]:
    return [t.id for t in node.targets if isinstance(t, ast.Name)]


def _last(value: ast.AST) -> str:
    """The last name of an expression: `f` for `self.f`, and for `jax.custom_vjp(f)`."""
    if isinstance(value, ast.Call):
        return _last(value.args[0]) if value.args else ""
    return str(getattr(value, "attr", None) or getattr(value, "id", ""))
