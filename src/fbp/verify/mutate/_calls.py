"""Mutations of calls: another axis, a mean for a sum, a dropped transpose, mask or dtype."""

import ast
from collections.abc import Iterator
from typing import Any

from fbp.verify.mutate._context import Context, called, changed, number, number_of

_SWAPS = {
    **{"sin": "cos", "cos": "sin", "sinh": "cosh", "cosh": "sinh", "max": "min", "min": "max"},
    **{"maximum": "minimum", "minimum": "maximum", "argmax": "argmin", "argmin": "argmax"},
    **{"amax": "amin", "amin": "amax", "erf": "erfc", "erfc": "erf", "all": "any", "any": "all"},
    **{"softmax": "log_softmax", "log_softmax": "softmax", "rsqrt": "sqrt", "ones": "zeros"},
    **{"zeros": "ones", "ones_like": "zeros_like", "zeros_like": "ones_like"},
}
_MEANS = {"mean": "sum", "sum": "mean", "nanmean": "nansum", "pmean": "psum", "psum": "pmean"}
_IDENTITY = {
    *("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "logistic", "sqrt", "rsqrt", "square"),
    *("abs", "sign", "reciprocal", "softmax", "cumsum", "psum", "pmean", "stop_gradient", "tril"),
    *("triu", "roll", "nan_to_num"),
}
_TRANSPOSES = {"transpose", "swapaxes", "moveaxis", "matrix_transpose"}
_SCATTERS = {
    **{"add": "set", "set": "add", "multiply": "set", "mul": "set", "max": "min", "min": "max"},
    **{"subtract": "add", "divide": "multiply"},
}
_COMMUTATIVE = {
    *("maximum", "minimum", "add", "multiply", "isinstance", "result_type", "promote_types"),
    *("equal", "logical_and", "logical_or", "max", "min", "zip", "fold_in", "logaddexp"),
}


def axis(node: Any, c: Context) -> Iterator[ast.AST]:
    """Replaces an axis by another or by all axes; drops `keepdims`."""
    if not isinstance(node, ast.Call):
        return
    for keyword in node.keywords:
        if keyword.arg == "keepdims":
            yield _without(node, keyword.value)
            operand = c.operand_of(node)
            if called(node) in ("sum", "mean") and operand is not None:
                yield operand
    place = c.axis_of(node)
    if place is None:
        return
    yield _without(node, place)
    value = number_of(place)
    if isinstance(value, int):
        yield _with(node, place, number({0: -1, -2: -1}.get(value, value - 1 if value > 1 else 0)))
    elif isinstance(place, ast.Tuple) and len(place.elts) > 1:
        yield _with(node, place, changed(place, elts=place.elts[1:]))
        yield _with(node, place, changed(place, elts=place.elts[:-1]))


def _without(call: ast.Call, value: ast.expr) -> ast.Call:
    keywords = [keyword for keyword in call.keywords if keyword.value is not value]
    return changed(call, args=[a for a in call.args if a is not value], keywords=keywords)


def _with(call: ast.Call, old: ast.expr, new: ast.expr) -> ast.Call:
    keywords = [changed(k, value=new) if k.value is old else k for k in call.keywords]
    return changed(call, args=[new if a is old else a for a in call.args], keywords=keywords)


def _renamed(call: ast.Call, name: str) -> ast.Call:
    if isinstance(call.func, ast.Attribute):
        return changed(call, func=changed(call.func, attr=name))
    return changed(call, func=changed(call.func, id=name))


def function(node: Any, c: Context) -> Iterator[ast.AST]:
    """Replaces a function by its opposite, a sum by a mean, a function by the identity."""
    if not isinstance(node, ast.Call) or _is_scatter(node):
        return
    name = called(node)
    if name in _SWAPS:
        yield _renamed(node, _SWAPS[name])
    if name in _MEANS and isinstance(node.func, ast.Attribute):
        yield _renamed(node, _MEANS[name])
    operand = c.operand_of(node)
    if name in _IDENTITY and operand is not None:
        yield operand
    leading = 1 if node.args and isinstance(node.args[0], ast.Constant) else 0
    pair, rest = node.args[leading : leading + 2], node.args[leading + 2 :]
    if c.of_module(node) and name not in _COMMUTATIVE and _are_two_names(pair):
        yield changed(node, args=[*node.args[:leading], *pair[::-1], *rest])
    if name == "einsum" and leading:
        text: Any = node.args[0]
        start, arrow, out = str(text.value).rpartition("->")
        if arrow and len(out) > 1:
            turned = ast.Constant(start + arrow + out[:-2] + out[:-3:-1])
            yield changed(node, args=[turned, *node.args[1:]])


def _are_two_names(nodes: list[ast.expr]) -> bool:
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return len(names) == 2 and names[0] != names[1]


def transpose(node: Any, c: Context) -> Iterator[ast.AST]:
    """Drops a transpose, or adds one."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value
    elif isinstance(node, ast.Call) and called(node) in _TRANSPOSES:
        operand = c.operand_of(node)
        if operand is not None:
            yield operand
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        for side in ("left", "right"):
            operand = getattr(node, side)
            if isinstance(operand, ast.Name | ast.Subscript):
                turned = ast.Attribute(operand, "T", ast.Load())
                yield changed(node, **{side: turned})


def mask(node: Any, c: Context) -> Iterator[ast.AST]:
    """Exchanges the branches of `where`; drops a mask or a bound."""
    if not isinstance(node, ast.Call):
        return
    name, args = called(node), node.args
    if name in ("where", "select") and len(args) == 3:
        yield changed(node, args=[args[0], args[2], args[1]])
        yield args[1]
        yield args[2]
    elif name in ("maximum", "minimum", "max", "min") and c.of_module(node) and len(args) == 2:
        if c.axis_of(node) is None:
            yield args[0]
            yield args[1]
    elif name == "clip" and len(args) == 3:
        yield args[0]
        yield changed(node, args=[args[0], ast.Constant(None), args[2]])
        yield changed(node, args=[args[0], args[1], ast.Constant(None)])


def _is_scatter(call: ast.Call) -> bool:
    func = call.func
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Subscript)
        and isinstance(func.value.value, ast.Attribute)
        and func.value.value.attr == "at"
    )


def scatter(node: Any, c: Context) -> Iterator[ast.AST]:
    """Replaces `.at[i].add` by `.at[i].set`, and other scatters likewise."""
    if isinstance(node, ast.Call) and _is_scatter(node) and called(node) in _SCATTERS:
        yield _renamed(node, _SCATTERS[called(node)])


def names(node: Any, c: Context) -> Iterator[ast.AST]:
    """Replaces an array by another."""
    if not isinstance(node, ast.Name) or node.id not in c.arrays or not c.is_operand(node):
        return
    at = c.arrays.index(node.id)
    others = c.arrays[at + 1 :] + c.arrays[:at]
    if isinstance(c.parent[node], ast.Call) or len(others) > 2:
        others = others[:1]
    for other in others:
        yield changed(node, id=other)


def precision(node: Any, c: Context) -> Iterator[ast.AST]:
    """Drops a cast or an argument that keeps precision or dtype; float32 becomes bfloat16."""
    if isinstance(node, ast.Attribute) and node.attr == "float32":
        yield changed(node, attr="bfloat16")
    if not isinstance(node, ast.Call):
        return
    name, args, func = called(node), node.args, node.func
    if len(args) == 1 and ("float32" in name or name in ("astype", "like")):
        yield func.value if name == "astype" and isinstance(func, ast.Attribute) else args[0]
    elif name in ("convert_element_type", "promote_types", "like") and len(args) == 2:
        yield args[0]
    elif name in ("asarray", "array") and len(args) == 2:
        yield changed(node, args=args[:1])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg in ("preferred_element_type", "dtype", "precision"):
            yield changed(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
