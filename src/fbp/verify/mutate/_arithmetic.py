"""Mutations of arithmetic: signs, terms, factors, constants, conditions, order and indices."""

import ast
from collections.abc import Iterator
from typing import Any

from fbp.verify.mutate._context import (
    Context,
    called,
    changed,
    negated,
    number,
    number_of,
    swapped_at,
    with_item,
)

# Functions that are not even: negating their argument changes the value.
_UNARY = {
    *("exp", "expm1", "log1p", "sigmoid", "tanh", "sin", "sinh", "erf", "erfc", "logistic"),
    *("softplus", "silu", "gelu", "relu", "softmax", "log_softmax", "logsumexp", "log_sigmoid"),
}
_CONSTANTS = {0: 1, 1: 0, 2: 1, 0.5: 1}
_BOUNDARY: dict[type, list[Any]] = {
    ast.Lt: [ast.LtE],
    ast.LtE: [ast.Lt],
    ast.Gt: [ast.GtE],
    ast.GtE: [ast.Gt],
    ast.Eq: [ast.LtE, ast.GtE],
    ast.NotEq: [ast.Lt, ast.Gt],
}


def _is_sequence(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_sequence(node.left) or _is_sequence(node.right)
    texts = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return texts or isinstance(node, ast.Tuple | ast.List | ast.JoinedStr | ast.ListComp)


def _is_arithmetic(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and not _is_sequence(node)


def sign(node: Any, c: Context) -> Iterator[ast.AST]:
    """Exchanges + and -, drops a minus or adds one."""
    flip = {ast.Add: ast.Sub, ast.Sub: ast.Add}
    if (_is_arithmetic(node) or isinstance(node, ast.AugAssign)) and type(node.op) in flip:
        yield changed(node, op=flip[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not c.is_place(node.operand):
            yield node.operand
    elif isinstance(node, ast.Call) and called(node) in _UNARY and c.of_module(node) and node.args:
        if not isinstance(node.args[0], ast.UnaryOp | ast.Starred):
            yield changed(node, args=[negated(node.args[0]), *node.args[1:]])
    elif isinstance(node, ast.Assign) and _is_arithmetic(node.value):
        if isinstance(node.targets[0], ast.Name | ast.Subscript):
            yield changed(node, value=negated(node.value))
    elif _is_result(node, c):
        parts = list(node.elts) if isinstance(node, ast.Tuple) else [node]
        for i, part in enumerate(parts):
            cast = isinstance(part, ast.Call) and called(part) == "astype"
            if _is_arithmetic(part) or cast:
                parts_now = with_item(parts, i, negated(part))
                yield changed(node, elts=parts_now) if isinstance(node, ast.Tuple) else parts_now[0]


def _is_result(node: Any, c: Context) -> bool:
    """Whether a node is what the function returns."""
    return isinstance(c.parent.get(node), ast.Return) or node is getattr(c.function, "body", None)


def term(node: Any, c: Context) -> Iterator[ast.AST]:
    """Drops a term of a sum; drops an accumulation, or makes it an assignment."""
    if isinstance(node, ast.AugAssign):
        yield ast.Pass()
        yield ast.Assign([node.target], node.value, lineno=node.lineno)
    elif _is_arithmetic(node) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.left
        right = node.right
        yield right if isinstance(node.op, ast.Add) else negated(right)


def factor(node: Any, c: Context) -> Iterator[ast.AST]:
    """Drops a factor of a product, exchanges * and / or the sides of @, lowers a power by one."""
    if not _is_arithmetic(node):
        return
    if isinstance(node.op, ast.Mult | ast.MatMult):
        yield node.left
        yield node.right
        if isinstance(node.op, ast.Mult):
            yield changed(node, op=ast.Div())
        else:
            yield changed(node, left=node.right, right=node.left)
    elif isinstance(node.op, ast.Div):
        yield node.left
        if number_of(node.left) != 1:
            yield changed(node, left=number(1))
        yield changed(node, op=ast.Mult())
    elif isinstance(node.op, ast.Pow):
        power = number_of(node.right)
        if power is not None:
            yield changed(node, right=number(power - 1))


def constant(node: Any, c: Context) -> Iterator[ast.AST]:
    """Replaces 0 by 1, and 1 by 0; 2 and 0.5 by 1; and doubles any other number."""
    value = number_of(node) if isinstance(node, ast.Constant) else None
    if value is None or c.is_place(node):
        return
    parent = c.parent.get(node)
    if isinstance(parent, ast.BinOp):
        # `term` and `factor` make these mutants.
        dropped = isinstance(parent.op, ast.Add | ast.Sub) and value in (0, 1)
        dropped |= isinstance(parent.op, ast.Mult) and value in (1, 2)
        dropped |= isinstance(parent.op, ast.Div) and value == 2 and node is parent.right
        if dropped or isinstance(parent.op, ast.Pow):
            return
    if isinstance(parent, ast.Call) and called(parent) in ("max", "min") and value == 1:
        return
    other = _CONSTANTS.get(value)
    yield number(2 * value if other is None else type(value)(other))


def condition(node: Any, c: Context) -> Iterator[ast.AST]:
    """Moves the boundary of a comparison, exchanges branches, drops a part of a mask."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        if not any(
            isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(node)
        ):
            for op in _BOUNDARY.get(type(node.ops[0]), []):
                yield changed(node, ops=[op()])
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield changed(node, op=other)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        yield node.left
        yield node.right
        yield changed(node, op=ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield changed(node, body=node.orelse, orelse=node.body)
    if isinstance(node, ast.expr) and _is_test(node, c) and not isinstance(node, ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)


def _is_test(node: ast.expr, c: Context) -> bool:
    parent = c.parent.get(node)
    return isinstance(parent, ast.If) and node is parent.test


def order(node: Any, c: Context) -> Iterator[ast.AST]:
    """Exchanges two returned gradients; drops the reversal of a loop or an array."""
    if isinstance(node, ast.Tuple) and _is_result(node, c):
        for i in range(len(node.elts) - 1):
            if ast.dump(node.elts[i]) != ast.dump(node.elts[i + 1]):
                yield changed(node, elts=swapped_at(node.elts, i))
    elif isinstance(node, ast.Call):
        if called(node) in ("reversed", "flip", "flipud", "fliplr", "rev") and node.args:
            yield node.args[0]
        for keyword in node.keywords:
            if keyword.arg == "reverse":
                yield changed(node, keywords=[k for k in node.keywords if k is not keyword])
    elif isinstance(node, ast.Subscript) and number_of(getattr(node.slice, "step", None)) == -1:
        yield node.value


def index(node: Any, c: Context) -> Iterator[ast.AST]:
    """Moves an index or a bound by one; replaces a key by another."""
    if not isinstance(node, ast.Subscript):
        return
    parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    for i, part in enumerate(parts):
        for other in _off_by_one(part, c):
            slices = with_item(parts, i, other)
            whole = ast.Tuple(slices, ast.Load()) if isinstance(node.slice, ast.Tuple) else other
            yield changed(node, slice=whole)
    if isinstance(node.slice, ast.Constant) and node.slice.value in c.keys:
        for key in c.keys:
            if key != node.slice.value:
                yield changed(node, slice=ast.Constant(key))


def _off_by_one(part: ast.expr, c: Context) -> Iterator[ast.expr]:
    if isinstance(part, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(part, name)
            if bound is not None:
                for other in _off_by_one(bound, c):
                    yield changed(part, **{name: other})
        return
    value = number_of(part)
    if isinstance(value, int):
        yield number(value + (1 if value >= 0 else -1))
        if value > 0:
            yield number(value - 1)
    elif isinstance(part, ast.Name) or (isinstance(part, ast.Attribute) and part.attr == "ndim"):
        yield ast.BinOp(part, ast.Sub(), number(1))
        if isinstance(part, ast.Name):
            yield ast.BinOp(part, ast.Add(), number(1))
