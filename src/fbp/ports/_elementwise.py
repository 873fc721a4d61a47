"""Whether an optimizer's update is elementwise, read from its jaxpr.

If it is, one copy of a Stack, or a few rows of it, can be updated before the gradients of the other
copies are known.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax

from fbp._layer import Array
from fbp.ports._expressions import Expressions, Kind, Value
from fbp.ports._part import SHARED, Part


def why_not_elementwise(
    part: Part, params: Sequence[Array], state: Sequence[Array], pieces: Collection[int]
) -> str:
    """Returns why the update of a part, that of a Stack, is not elementwise; "" if it is.

    Each new number must be an elementwise function of the numbers in its place, and of scalars that
    no parameter or gradient reaches; and it must be the same function for all copies of the Stack,
    for one copy, and for a piece of one.

    Args:
      part: the optimizer, restricted to the params of the Stack.
      params: all parameters.
      state: all leaves of the state.
      pieces: the numbers of pieces that a copy may be updated in.
    """
    for leaf, owner in zip(state, part.owners, strict=True):
        if owner in part.numbers and leaf.shape != params[owner].shape:
            return "keeps a state of another shape than its parameter"
    expressions = Expressions()
    try:
        own, shared = _outputs(expressions, part, params, state)
        cuts = [_outputs(expressions, part, params, state, pieces=n) for n in pieces]
    except Exception as error:
        return f"cannot update a part of the parameters: {error}"
    mixed = [v for v in own if v.kind in (Kind.TABLE, Kind.MIXED)]
    mixed += [v for v in shared if v.kind == Kind.MIXED]
    if mixed:
        return f"takes {mixed[0].origin} over parameters"
    if any(value.kind == Kind.VARIES for value in shared):
        return "keeps a number of a parameter for all parameters"
    if any(_keys(cut) != _keys((own, shared)) for cut in cuts):
        return "depends on the sizes of parameters"
    return ""


def why_not_alone(part: Part, params: Sequence[Array], state: Sequence[Array]) -> str:
    """Returns why the update of a part depends on more than in `Part.update`; "" if it does not.

    Args:
      part: the optimizer, restricted to the part.
      params: all parameters.
      state: all leaves of the state.
    """
    expressions = Expressions()
    try:
        alone = _outputs(expressions, part, params, state)
        among_all = _outputs(expressions, part, params, state, among_all=True)
    except Exception as error:
        return f"cannot update a part of the parameters: {error}"
    same = _keys(alone) == _keys(among_all)
    return "" if same else "depends on other parameters, on their number or on the loss"


def _keys(outputs: tuple[list[Value], list[Value]]) -> list[int]:
    return [value.key for values in outputs for value in values]


def _outputs(
    expressions: Expressions,
    part: Part,
    params: Sequence[Array],
    state: Sequence[Array],
    pieces: int = 0,
    among_all: bool = False,
) -> tuple[list[Value], list[Value]]:
    """Returns a part's new parameters and state, and the new shared state, as expressions.

    Args:
      pieces: 0 for all copies, else the number of pieces that one copy is cut into.
      among_all: whether all parameters are updated, as in a plain step, or the part alone.
    """
    numbers = range(part.tree.num_leaves) if among_all else part.numbers
    updated = part.only(numbers)

    def cut(a: Any) -> jax.ShapeDtypeStruct:
        if not pieces:
            return jax.ShapeDtypeStruct(a.shape, a.dtype)
        rows = [n // pieces for n in a.shape[1:2]]
        return jax.ShapeDtypeStruct((1, *rows, *a.shape[2:]), a.dtype)

    def update(value: Any, g: Any, p: Any, s: Any) -> Any:
        if not among_all:
            return updated.update(g, p, s)
        # What a plain step gives an optimizer besides.
        extra = {"value": value, "grad": part.tree.unflatten(g), "value_fn": _not_known}
        return updated.update(g, p, s, **extra)

    p = [cut(params[n]) for n in numbers]
    s = [a if n == SHARED else cut(a) for a, n in zip(state, part.owners, strict=True)]
    program = jax.make_jaxpr(update)(jax.ShapeDtypeStruct((), "float32"), p, p, s)
    names = [("value", 0, SHARED), *(("g", n, n) for n in numbers), *(("p", n, n) for n in numbers)]
    names += [("s", i, owner) for i, owner in enumerate(part.owners)]
    inputs = [
        expressions.input((name, i), v.aval, varies=owner in part.numbers)
        for (name, i, owner), v in zip(names, program.jaxpr.invars, strict=True)
    ]
    outs = expressions.read(program.jaxpr, program.consts, inputs)
    owners = [*numbers, *part.owners]
    own = [v for v, owner in zip(outs, owners, strict=True) if owner in part.numbers]
    return own, [v for v, owner in zip(outs, owners, strict=True) if owner == SHARED]


def _not_known(params: Any) -> Any:
    raise ValueError("it evaluates the loss")
