"""Numbers from inside a program: what is noted where it is computed comes out beside the result.

`note` gives arrays a name where they are computed, in a layer, perhaps inside a scan; it computes
nothing. `collected` evaluates the program equation by equation, which may be traced and compiled,
and returns the named arrays too; those of a scan are stacked, one for each step.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import JaxprEqn

from fbp._layer import Array, PyTree
from fbp.verify.program._interpreter import Interpreter, bind, scanned
from fbp.verify.program._program import trace

_PREFIX = "fbp."


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["name"])
@dataclass
class Note:
    """An array, by its name."""

    name: str
    value: Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["notes"], meta_fields=["length", "reverse"]
)
@dataclass
class Loop:
    """The notes of a scan, whose arrays have a leading axis for the steps."""

    length: int
    reverse: bool
    notes: list["Note | Loop"] = field(default_factory=list)


def note(name: str, tree: PyTree) -> PyTree:
    """The same tree, whose arrays are named: `name.0`, `name.1`, ... in the order of its leaves."""
    leaves, form = jax.tree.flatten(tree)
    return jax.tree.unflatten(form, [_named(f"{name}.{i}", a) for i, a in enumerate(leaves)])


def _named(name: str, a: Any) -> Any:
    noted = checkpoint_name(plain(a), _PREFIX + name)
    return a if plain(a) is not a else noted


def plain(a: Any) -> Any:
    """An array; of a key of `jax.random`, its numbers."""
    is_key = jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(a) if is_key else a


def collected(f: Callable[..., PyTree], *args: PyTree) -> tuple[PyTree, list[Note | Loop]]:
    """What f returns for these arguments, and what is noted in it, in the order of computation."""
    leaves, form = jax.tree.flatten(args)
    out: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        values, made = jax.tree.flatten(f(*jax.tree.unflatten(form, leaves)))
        out[:] = [made]
        return values

    program = trace(flat, *leaves)
    collector = _Collector()
    values = collector.run(program.jaxpr, program.consts, leaves)
    return jax.tree.unflatten(out[0], values), collector.found


def spread(notes: list[Note | Loop], place: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The names and arrays in the order of computation, loops step by step."""
    for one in notes:
        if isinstance(one, Note):
            yield one.name, one.value[place]
            continue
        steps = range(one.length)
        for i in reversed(steps) if one.reverse else steps:
            yield from spread(one.notes, (*place, i))


class _Collector(Interpreter):
    """Evaluates a program, and finds what is noted outside of branches and of loops with a
    condition, whose number of steps is not known."""

    def __init__(self) -> None:
        self.found: list[Note | Loop] = []

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name = eqn.params.get("name")
        if eqn.primitive.name == "name" and str(name).startswith(_PREFIX):
            self.found.append(Note(str(name).removeprefix(_PREFIX), ins[0]))
            return ins
        return bind(eqn, ins)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return bind(eqn, ins)

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return bind(eqn, ins)

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        inside = _Collector()

        def run(*body: Any) -> list[Any]:
            inside.found = []  # a body may be traced more than once
            return [*inside.run(*body), *jax.tree.leaves(inside.found)]

        outs = scanned(eqn, ins, run)
        if not inside.found:
            return outs
        own = len(eqn.outvars)
        stacked = jax.tree.unflatten(jax.tree.structure(inside.found), outs[own:])
        self.found.append(Loop(eqn.params["length"], eqn.params["reverse"], stacked))
        return outs[:own]
