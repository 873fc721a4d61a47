"""The outputs of a jaxpr as expressions of its inputs, which can be compared and classified."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp"),
    *("integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log"),
    *("log1p", "tanh", "logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma", "nextafter"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh"),
    *("atanh", "eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "xor", "is_finite"),
    *("select_n", "ceil", "floor", "round", "convert_element_type", "reduce_precision", "copy"),
    *("stop_gradient", "shift_left", "shift_right_logical", "shift_right_arithmetic"),
}
_RESHAPES = {"broadcast_in_dim", "reshape", "squeeze"}
# Primitives that run one jaxpr of their params on their operands.
_CALLS = {
    *("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call"),
}


class Kind(enum.IntEnum):
    """How the elements of a value come about.

    UNIFORM: all are one number, which depends on no input that varies.
    TABLE: any other value that depends on no input that varies.
    VARIES: each is an elementwise function of the elements of varying inputs in its place.
    MIXED: any other.
    """

    UNIFORM = 0
    TABLE = 1
    VARIES = 2
    MIXED = 3


class Value(NamedTuple):
    """A value of a jaxpr.

    Attributes:
      key: equal for equal expressions. The shapes of what is uniform or varies are not part of it.
      kind: how its elements come about.
      origin: the primitive that made it a table or mixed.
    """

    key: int
    kind: Kind
    origin: str = ""


class Expressions:
    """Reads jaxprs; the keys of all that one object reads can be compared."""

    def __init__(self) -> None:
        self._keys: dict[Any, int] = {}
        self._kept: list[Any] = []  # constants compared by identity, which must not be freed

    def input(self, name: Any, aval: Any, varies: bool) -> Value:
        """Returns an input; one that does not vary is a number, or a table."""
        kind = Kind.VARIES if varies else _fixed(aval)
        return Value(
            self._key(("input", name)), kind, "an array of its state" if kind == Kind.TABLE else ""
        )

    def read(self, program: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Returns the outputs of a jaxpr. Calls are read through, branches output by output."""
        known: dict[Any, Value] = dict(zip(program.invars, inputs, strict=True))
        known.update(zip(program.constvars, map(self._constant, consts), strict=True))

        def value(atom: Any) -> Value:
            return self._constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in program.eqns:
            known.update(
                zip(eqn.outvars, self._outputs(eqn, [*map(value, eqn.invars)]), strict=True)
            )
        return [value(atom) for atom in program.outvars]

    def _outputs(self, eqn: JaxprEqn, ins: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name in _CALLS:
            inner = next(v for v in eqn.params.values() if isinstance(v, ClosedJaxpr | Jaxpr))
            return self.read(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), ins)
        if name == "cond" and ins[0].kind == Kind.UNIFORM:
            branches = [self.read(b.jaxpr, b.consts, ins[1:]) for b in eqn.params["branches"]]
            return [self._choice(ins[0], values) for values in zip(*branches, strict=True)]
        kinds = {v.kind for v in ins}
        if name in _RESHAPES and kinds == {Kind.UNIFORM}:
            return [ins[0]]
        keys = tuple(v.key for v in ins)
        if name in _ELEMENTWISE and kinds <= {Kind.UNIFORM, Kind.VARIES}:
            key = self._key((name, self._params(eqn), keys))
            return [Value(key, max(kinds))]
        shapes = tuple(str(v.aval) for v in eqn.invars)
        origin = next((v.origin for v in ins if v.origin), name)
        outs = []
        for i, out in enumerate(eqn.outvars):
            key = self._key((name, self._params(eqn), keys, shapes, str(out.aval), i))
            kind = Kind.MIXED if max(kinds, default=0) >= Kind.VARIES else _fixed(out.aval)
            outs.append(Value(key, kind, "" if kind == Kind.UNIFORM else origin))
        return outs

    def _choice(self, index: Value, values: Sequence[Value]) -> Value:
        """Returns one output of a cond."""
        most = max(values, key=lambda v: v.kind)
        mixes = most.kind == Kind.VARIES and any(v.kind == Kind.TABLE for v in values)
        kind = Kind.MIXED if mixes else most.kind
        origin = next((v.origin for v in values if v.origin), "")
        return Value(self._key(("cond", index.key, *(v.key for v in values))), kind, origin)

    def _constant(self, a: Any) -> Value:
        kind = _fixed(a)
        origin = "a constant" if kind == Kind.TABLE else ""
        return Value(self._key(("constant", self._content(a))), kind, origin)

    def _content(self, a: Any) -> Any:
        try:
            array = np.asarray(a)
            return array.shape, str(array.dtype), array.tobytes()
        except Exception:  # a tracer of an outer program, or a key
            self._kept.append(a)
            return id(a)

    def _params(self, eqn: JaxprEqn) -> Any:
        inner = [v for v in jax.tree.leaves(eqn.params, is_leaf=_is_program) if _is_program(v)]
        consts = [self._content(c) for v in inner for c in v.consts]
        return repr(sorted(eqn.params.items())), tuple(consts)

    def _key(self, expression: Any) -> int:
        return self._keys.setdefault(expression, len(self._keys))


def _is_program(node: Any) -> bool:
    return isinstance(node, ClosedJaxpr)


def _fixed(a: Any) -> Kind:
    return Kind.TABLE if np.ndim(a) else Kind.UNIFORM
