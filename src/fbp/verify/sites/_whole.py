"""The gradient of a whole program, with all, none or some of its rules in use."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fbp.verify.program._compiled import quick
from fbp.verify.program._dtypes import is_float, wide
from fbp.verify.program._numbers import largest
from fbp.verify.program._program import as_function, trace, without_rules
from fbp.verify.program._wide import narrow_dtypes, widened
from fbp.verify.rule._rule import first_line
from fbp.verify.rule._subject import Subject
from fbp.verify.sites._sites import rules_in_program


class Whole:
    """The gradient of a whole program, with all, none or some of its rules in use."""

    def __init__(self, subject: Subject, notes: list[str]) -> None:
        self.subject = subject
        self.diff = subject.differentiable
        self.x64 = True
        self.stuck: dict[str, Any] = {}
        try:
            with jax.enable_x64(True):
                self.values = [wide(v) for v in subject.values]
                self.program = trace(subject.f, self.values)
        except Exception as error:
            notes.append(f"not traced in float64: {first_line(error)}")
            self.x64 = False
            self.values = subject.values
            self.program = trace(subject.f, self.values)
        self.count = rules_in_program(self.program.jaxpr)
        self.exact = self._gradient(without_rules(self.program))

    def _gradient(self, program: Any) -> list[np.ndarray]:
        def gradient(*values: Any) -> list[Any]:
            dys = [np.ones(a.shape, a.dtype) for a in filter(is_float, program.out_avals)]
            return self.subject.pull(as_function(program), values, dys)[1]

        with jax.enable_x64(self.x64):
            run: Any = gradient
            if self.x64:
                traced = trace(gradient, *self.values)
                if narrow_dtypes(traced):  # the loss casts inside
                    run = widened(traced, self.stuck)
            compiled = quick(run, *self.values)
            return [np.asarray(g) for g in jax.device_get(compiled(*self.values))]

    @property
    def allowed(self) -> float:
        """How far rounding may move the gradient, relative to the largest element of a leaf."""
        if not self.x64:
            return np.inf
        units = [float(jax.numpy.finfo(d).eps) for d in self.stuck.values()]
        return max([1e-6, *(unit ** (2 / 3) for unit in units)])

    def errors(self) -> dict[str, float]:
        """By path of the leaf, the relative change of the gradient when all rules are used."""
        got = self._gradient(self.program)
        return {
            self.subject.leaves[i].path: _relative(g, w)
            for i, g, w in zip(self.diff, got, self.exact, strict=True)
        }

    def error(self, numbers: Sequence[int]) -> float:
        """The largest relative change when only the rules with these numbers are used."""
        got = self._gradient(without_rules(self.program, numbers))
        return max(map(_relative, got, self.exact), default=0.0)


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    size, error = largest(want), largest(got - want)
    return error / size if size else (float("inf") if error else 0.0)
