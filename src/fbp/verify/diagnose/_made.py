"""The values that a function computes on its way, in which a wrong factor may be expressed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from fbp.verify.program._compiled import quick
from fbp.verify.program._interpreter import Interpreter
from fbp.verify.program._program import quoted, source_of
from fbp.verify.rule._derived import once
from fbp.verify.rule._runs import Runs

_LARGEST = 4096  # Elements of a value that is worth keeping.
_MOST = 200  # Values that are kept, the first ones.


class _Recorder(Interpreter):
    """Evaluates a program and keeps what its equations compute outside of loops and branches."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[Any] = []
        self.outer: tuple[str, int] | None = None

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        before = self.outer
        self.outer = source_of(eqn) or before
        outs = super().equation(eqn, ins)
        self.outer = before
        return outs

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        outs = super().primitive(eqn, ins)
        is_new = not all(isinstance(atom, Literal) for atom in eqn.invars)
        for out in outs:
            is_float = jnp.issubdtype(jnp.result_type(out), jnp.floating)
            if is_new and is_float and jnp.size(out) <= _LARGEST and len(self.names) < _MOST:
                self.names.append(f"{eqn.primitive.name}{quoted(self.outer)}")
                self.values.append(out)
        return outs

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().scan(eqn, ins)

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().loop(eqn, ins)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return Interpreter().cond(eqn, ins)


def made_by(runs: Runs, values: list[Any]) -> list[tuple[str, np.ndarray]]:
    """What the function computes from these values, each with the text that names it."""

    def compiled() -> Any:
        recorder = _Recorder()

        def all_of(values: list[Any]) -> list[Any]:
            recorder.names, recorder.values = [], []
            recorder.run(runs.program.jaxpr, runs.program.consts, values)
            return recorder.values

        return quick(all_of, runs.wide(runs.subject.values)), recorder.names

    with jax.enable_x64(True):
        run, names = once(runs, "what the function computes", compiled)
        return list(zip(names, jax.device_get(run(runs.wide(values))), strict=True))
