"""The context of a syntax node in its function, on which mutations depend."""

import ast
import copy
import re
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Functions that check or print: no gradient flows through a statement that calls one.
_GUARD = re.compile(r"_*(require|check|assert|validate|expect|warn|debug|print)")
_AXES = {
    "axis",
    "axes",
    "dimension",
    "dimensions",
    "dim",
    "axis1",
    "axis2",
    "source",
    "destination",
}
# Functions of the type or the size of an array, not of its values.
_ABOUT = {"isinstance", "len", "range", "type", "result_type", "promote_types", "shape", "ndim"}
_REDUCTIONS = {
    *("sum", "mean", "max", "min", "prod", "all", "any", "var", "std", "argmax", "argmin"),
    *("cumsum", "cumprod", "nansum", "nanmean", "amax", "amin", "softmax", "log_softmax"),
    *("logsumexp", "squeeze", "expand_dims", "flip", "roll", "normalize"),
}


class Context:
    """A function to mutate, and the names of the modules that its file imports."""

    def __init__(self, function: Function, modules: set[str]) -> None:
        self.function = function
        self.modules = modules
        body = function.body if isinstance(function.body, list) else [function.body]
        self.parent: dict[ast.AST, ast.AST] = {
            child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)
        }
        self.nodes: list[Any] = []
        for part in body:
            self._visit(part)
        self.keys = sorted({key for key in map(_string_key, self.nodes) if key})
        self.arrays = self._arrays()

    def _visit(self, node: ast.AST) -> None:
        if _is_guard(node):
            for other in getattr(node, "orelse", []):
                self._visit(other)
            return
        if isinstance(node, ast.JoinedStr | ast.arguments | ast.Raise | ast.Assert):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts: list[ast.AST] = list(node.body)
        elif isinstance(node, ast.AnnAssign):
            parts = [node.value] if node.value else []
        else:
            self.nodes.append(node)
            parts = list(ast.iter_child_nodes(node))
        for part in parts:
            self._visit(part)

    def _arrays(self) -> list[str]:
        """Parameters, and names that are unpacked from a tuple, that are used as operands."""
        names = [
            a.arg
            for node in ast.walk(self.function)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for a in (*node.args.posonlyargs, *node.args.args)
            if a.arg not in ("self", "cls", "key")
        ]
        for node in self.nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                names += [t.id for t in node.targets[0].elts if isinstance(t, ast.Name)]
        used = {
            node.id for node in self.nodes if isinstance(node, ast.Name) and self.is_operand(node)
        }
        return [name for name in dict.fromkeys(names) if name in used]

    def is_operand(self, node: ast.AST) -> bool:
        """Whether a node is an operand of an operation, a call or a method."""
        parent = self.parent.get(node)
        if isinstance(parent, ast.BinOp | ast.UnaryOp):
            return True
        if isinstance(parent, ast.Call):
            return node in parent.args and called(parent) not in _ABOUT
        method = self.parent.get(parent) if parent else None
        return (
            isinstance(parent, ast.Attribute)
            and isinstance(method, ast.Call)
            and method.func is parent
        )

    def of_module(self, call: ast.Call) -> bool:
        """Whether a call is of a function, such as `jnp.sum(x)`, and not of a method."""
        root = call.func
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and (root.id in self.modules or root is call.func)

    def operand_of(self, call: ast.Call) -> ast.expr | None:
        """The array that a function or a method acts on."""
        if self.of_module(call):
            return call.args[0] if call.args else None
        return call.func.value if isinstance(call.func, ast.Attribute) else None

    def axis_of(self, call: ast.Call) -> ast.expr | None:
        """The axis argument of a call, or None."""
        for keyword in call.keywords:
            if keyword.arg in _AXES:
                return keyword.value
        if called(call) in _REDUCTIONS and isinstance(call.func, ast.Attribute):
            place = 1 if self.of_module(call) else 0
            if len(call.args) > place and not isinstance(call.args[place], ast.Starred):
                return call.args[place]
        return None

    def is_place(self, node: ast.AST) -> bool:
        """Whether a number is an axis, an index or a bound, and not a quantity."""
        parent = self.parent.get(node)
        while isinstance(parent, ast.UnaryOp | ast.Tuple | ast.Slice | ast.List):
            node, parent = parent, self.parent.get(parent)
        if isinstance(parent, ast.Subscript):
            return node is parent.slice
        if isinstance(parent, ast.keyword):
            return parent.arg in _AXES
        if not isinstance(parent, ast.Call):
            return False
        if called(parent) in ("swapaxes", "moveaxis", "transpose", "reshape", "range", "take"):
            return True
        return node is self.axis_of(parent)


def _string_key(node: ast.AST) -> str:
    key = getattr(node.slice, "value", None) if isinstance(node, ast.Subscript) else None
    return key if isinstance(key, str) else ""


def _is_guard(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.body[-1], ast.Raise)
    if not isinstance(node, ast.Expr):
        return False
    call = node.value
    return not isinstance(call, ast.Call) or bool(_GUARD.match(called(call)))


def called(call: ast.Call) -> str:
    """The last name of the called function: `sum` for `jnp.sum(x)` and for `x.sum()`."""
    func: Any = call.func
    return str(getattr(func, "attr", None) or getattr(func, "id", ""))


def changed(node: Any, **fields: Any) -> Any:
    """A copy of the node with other fields; its other parts are shared."""
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def swapped_at(items: list[Any], i: int) -> list[Any]:
    """The list with two neighbours exchanged."""
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def with_item(items: list[Any], i: int, item: Any) -> list[Any]:
    """The list with another item at i."""
    return [*items[:i], item, *items[i + 1 :]]


def number(value: float) -> ast.expr:
    """The syntax node of a number."""
    if value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def number_of(node: Any) -> Any:
    """The value of a number or of minus a number; None for any other node."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number_of(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    return None


def negated(node: ast.expr) -> ast.expr:
    """Minus a node."""
    return ast.UnaryOp(ast.USub(), node)
