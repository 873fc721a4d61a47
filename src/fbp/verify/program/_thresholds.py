"""The numbers that a program compares with: floats, where it may have kinks, and integers.

A comparison of a u + b (see `_affine`) with a number c has its thresholds at the x that solve
a u + b = c.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from fbp.verify.program._affine import (
    LARGEST,
    MOST_EDGES,
    Affine,
    OneOf,
    computed,
    followed,
    known,
    moved_of,
    numbers_in,
)
from fbp.verify.program._interpreter import CALLS, all_inputs
from fbp.verify.program._margins import COMPARED
from fbp.verify.program._program import dtype_of, equations, opened, scan_splits


class Thresholds:
    """Follows a program and collects its thresholds.

    Attributes:
      of_leaf: by input, numbers or arrays of its shape that it is compared with.
      others: numbers that something else is compared with.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.of_leaf: dict[int, list[Any]] = {}
        self.others: list[float] = []

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        """The values of the outputs, as far as they are known; None for the others."""
        jaxpr, consts = opened(program)
        values: dict[Any, Any] = {}
        values.update(zip(all_inputs(jaxpr), [*map(known, consts), *args], strict=True))

        def read(atom: Any) -> Any:
            return known(atom.val) if isinstance(atom, Literal) else values.get(atom)

        for eqn in jaxpr.eqns:
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=False))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        unknown = [None] * len(eqn.outvars)
        if name in CALLS and CALLS[name] in params:
            return self.run(params[CALLS[name]], ins)
        if name == "cond":
            branches = [self.run(branch, ins[1:]) for branch in params["branches"]]
            return branches[0] if len(branches) == 1 else unknown
        if name == "scan":
            n, m = scan_splits(params)
            xs = [moved_of(value) for value in ins[m:]]
            self.run(params["jaxpr"], [*ins[:n], *[None] * (m - n), *xs])
            return unknown
        if name == "while":
            n = params["cond_nconsts"]
            m = n + params["body_nconsts"]
            carry = [None] * (len(ins) - m)
            self.run(params["cond_jaxpr"], [*ins[:n], *carry])
            self.run(params["body_jaxpr"], [*ins[n:m], *carry])
            return unknown
        if ins and all(isinstance(value, np.ndarray) for value in ins):
            return computed(eqn, ins)
        self._note(eqn, ins)
        if len(eqn.outvars) != 1:
            return unknown
        return [followed(name, ins, eqn)]

    def _note(self, eqn: JaxprEqn, ins: Sequence[Any]) -> None:
        name = eqn.primitive.name
        if name in COMPARED:
            for value in ins:
                for other in ins:
                    if other is not value and isinstance(other, np.ndarray | OneOf):
                        self._compared(value, other)
        elif name == "call_hi_primitive" and "searchsorted" in str(eqn.params).lower():
            self._compared(ins[1], ins[0])  # a primitive of its own from jax 0.12 on
        elif name in ("abs", "sign"):
            self._compared(ins[0], np.zeros(()))
        elif name in ("floor", "ceil"):
            self._compared(ins[0], OneOf(np.array([0.0, 1.0, -1.0])))
        elif name == "round":
            self._compared(ins[0], OneOf(np.array([0.5, -0.5, 1.5])))
        elif name == "rem" and isinstance(ins[1], np.ndarray) and ins[1].size == 1:
            self._compared(ins[0], OneOf(float(ins[1].ravel()[0]) * np.array([0.0, 1.0, -1.0])))

    def _compared(self, value: Any, other: np.ndarray | OneOf) -> None:
        if not isinstance(value, Affine):
            if value is None:
                self.others += [c for c in numbers_in(other) if abs(c) < LARGEST]
            return
        shape = self.shapes[value.leaf]
        if isinstance(other, np.ndarray) and other.size > 1 and not value.moved:
            try:
                places = np.broadcast_to(other.astype(np.float64), shape)
            except ValueError:
                places = None
            if places is not None:
                self._add(value, places)
                return
        for c in numbers_in(other):
            self._add(value, c)

    def _add(self, value: Affine, c: Any) -> None:
        known = self.of_leaf.setdefault(value.leaf, [])
        for x in value.solve(c):
            usable = np.isfinite(x).all() and np.abs(x).max(initial=0.0) < LARGEST
            is_new = all(np.shape(t) != np.shape(x) or np.any(t != x) for t in known)
            if usable and is_new and len(known) < MOST_EDGES:
                known.append(x)


def thresholds_of(
    program: ClosedJaxpr, values: Sequence[Any], diff: Iterable[int]
) -> dict[int, list[Any]]:
    """By differentiable input, where the program compares it with something known.

    Args:
      program: the program.
      values: its inputs; of those that are not differentiated the values are known.
      diff: the inputs that are differentiated.
    """
    diff = set(diff)
    follow = Thresholds([np.shape(v) for v in values])
    args = [Affine(i) if i in diff else known(v) for i, v in enumerate(values)]
    follow.run(program, args)
    return follow.of_leaf


def thresholds(program: ClosedJaxpr) -> list[float]:
    """The constants a program compares with: where its kinks may be."""
    avals = program.in_avals
    floats = [jnp.issubdtype(a.dtype, jnp.floating) for a in avals]
    follow = Thresholds([a.shape for a in avals])
    follow.run(program, [Affine(i) if f else None for i, f in enumerate(floats)])
    found = set(follow.others)
    for edges in follow.of_leaf.values():
        found.update(float(t) for edge in edges for t in np.unique(edge)[:MOST_EDGES])
    return sorted(found, key=abs)[:8]


def special_integers(program: ClosedJaxpr) -> list[int]:
    """The integers that a program compares with: a padding id, a label to ignore."""
    found: dict[int, None] = {}
    for eqn in equations(program.jaxpr):
        name = eqn.primitive.name
        for atom in eqn.invars if name in ("eq", "ne", "lt", "le", "gt", "ge") else ():
            if not isinstance(atom, Literal) or not jnp.issubdtype(dtype_of(atom), jnp.integer):
                continue
            if np.ndim(atom.val) == 0:
                n = int(atom.val)
                # Negative ones only from == and !=: `i < 0` is how jax wraps an index.
                here = [n] if name in ("eq", "ne") else [m for m in (n, n + 1) if m >= 0]
                found.update(dict.fromkeys(here))
    return list(found)[:6]
