"""The gradient of a whole program, with all, none or some of its rules in use."""

import functools
import math
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from fbp.verify.judge._bounds import lost_to_rounding, rounding_of_cancelling
from fbp.verify.program._compiled import quick
from fbp.verify.program._dtypes import is_float, wide
from fbp.verify.program._numbers import EPS64, largest
from fbp.verify.program._program import as_function, rule_calls, trace, without_rules
from fbp.verify.program._wide import narrow_dtypes, widened
from fbp.verify.rule._rule import first_line, leak
from fbp.verify.rule._subject import Subject
from fbp.verify.sites._sites import rule_source

# The effect of single rules is computed for so many seconds at the most.
_LONGEST = 20.0


def _has_reverse_mode(eqn: JaxprEqn) -> bool:
    """Whether the function that a rule is for has one of its own, as a `while` loop has not."""
    plain = as_function(without_rules(eqn.params["call_jaxpr"]))
    avals = [v.aval for v in eqn.invars]
    floats = [i for i, a in enumerate(avals) if is_float(a)]

    def gradient(values: Sequence[Any]) -> Any:
        def of_floats(moved: Sequence[Any]) -> list[Any]:
            filled = list(values)
            for i, v in zip(floats, moved, strict=True):
                filled[i] = v
            return list(filter(is_float, plain(filled)))

        outs, pull = jax.vjp(of_floats, [values[i] for i in floats])
        return pull(outs)

    try:
        jax.eval_shape(gradient, avals)
    except Exception:
        return False
    return True


class Whole:
    """The gradient of the whole program, with all, none or some of its rules in force.

    Attributes:
      names: the functions that have its rules, in the order of the program.
      exact: the reference: the gradient without rules; [] where there is none.
      needed: numbers of the rules without which the program has no gradient.
      kept: numbers of the rules that the reference keeps: those, and some that were named.
    """

    def __init__(self, subject: Subject, notes: list[str], keep: Container[str] = ()) -> None:
        self.subject, self.notes = subject, notes
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
        self.names = [rule_source(eqn)[0] for eqn in rule_calls(self.program)]
        self.needed: list[int] = []
        self.kept = [n for n, name in enumerate(self.names) if name in keep]
        self.exact: list[np.ndarray] = []
        self.seconds = 0.0
        try:
            try:
                self.exact = self._gradient(without_rules(self.program, self.kept))
            except Exception:
                self.needed = self._needed()
                self.kept = sorted({*self.kept, *self.needed})
                self.exact = self._gradient(without_rules(self.program, self.kept))
        except Exception as error:
            try:
                with jax.enable_x64(self.x64):
                    jax.eval_shape(self._pull(None), *self.values)
            except Exception as own:
                text = f"{type(own).__name__}: {first_line(own)}"
                notes.append(f"jax.grad of {subject.name} itself raises {text}")
            else:
                self._note(error)

    def keep(self, numbers: Sequence[int]) -> None:
        """Keeps more rules in the reference."""
        self.kept = sorted({*self.kept, *numbers})
        if self.exact:
            self.exact = self._gradient(without_rules(self.program, self.kept))
            self.__dict__.pop("_rounding", None)

    def _needed(self) -> list[int]:
        """The rules without which, all others in force, the program has no gradient."""
        with jax.enable_x64(self.x64):
            calls = zip(self.names, rule_calls(self.program), strict=True)
            lacking = dict.fromkeys(name for name, eqn in calls if not _has_reverse_mode(eqn))
        needed: list[int] = []
        for lacks in lacking:
            mine = [n for n, name in enumerate(self.names) if name == lacks]
            others = [n for n in range(len(self.names)) if n not in mine]
            try:
                with jax.enable_x64(self.x64):
                    program = without_rules(self.program, others)
                    jax.eval_shape(self._pull(program), *self.values)
            except Exception:
                needed += mine
        return needed

    def _note(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {first_line(error)}"
        if leak(error):
            said = "a rule closes over a value of the loss, so that it cannot be traced by itself"
        text = f"the whole gradient was not compared: {said}"
        if text not in self.notes:
            self.notes.append(text)

    def _pull(self, program: Any) -> Callable[..., list[Any]]:
        """The gradient of a program; of the loss itself for None.

        The loss is differentiated while it is traced, as jit(grad(loss)) does: so its rules may
        close over values of the trace.
        """
        f = self.subject.f if program is None else as_function(program)

        def gradient(*values: Any) -> list[Any]:
            outs = filter(is_float, self.program.out_avals)
            return self.subject.pull(f, values, [np.ones(a.shape, a.dtype) for a in outs])[1]

        return gradient

    def _gradient(self, program: Any) -> list[np.ndarray]:
        with jax.enable_x64(self.x64):
            run: Any = self._pull(program)
            if self.x64:
                traced = trace(run, *self.values)
                if narrow_dtypes(traced):  # a loss that casts inside
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
        """By leaf, how far all rules together move the gradient; {} where that cannot be told."""
        if not self.exact:
            return {}
        try:
            got = self._gradient(None)
        except Exception as error:
            self._note(error)
            self.exact = []
            return {}
        return {
            self.subject.leaves[i].path: error
            for i, error in zip(self.diff, self._relative(got), strict=True)
        }

    def error(self, numbers: Sequence[int]) -> float:
        """How far the rules of these numbers alone move it; NaN where that cannot be told."""
        if not self.exact or set(numbers) & set(self.kept) or self.seconds > _LONGEST:
            return math.nan
        started = time.perf_counter()
        try:
            got = self._gradient(without_rules(self.program, [*numbers, *self.kept]))
        except Exception:
            return math.nan
        self.seconds += time.perf_counter() - started
        return max(self._relative(got), default=0.0)

    def _relative(self, got: Sequence[np.ndarray]) -> list[float]:
        """By leaf, how far a gradient is from the reference, relative to the largest element."""
        errors = [largest(g - w) for g, w in zip(got, self.exact, strict=True)]
        sizes = [largest(w) for w in self.exact]
        if any(error > self.allowed * size for error, size in zip(errors, sizes, strict=True)):
            # Where all terms cancel, such as in the gradient of a bias before a normalization, what
            # is left is rounding.
            errors = [max(e - r, 0.0) for e, r in zip(errors, self._rounding, strict=True)]
        return [
            error / size if size else (math.inf if error else 0.0)
            for error, size in zip(errors, sizes, strict=True)
        ]

    @functools.cached_property
    def _rounding(self) -> list[float]:
        """By leaf, how much the reference may lose to rounding: 0 where that cannot be told."""
        try:
            program = trace(self.subject.f, self.subject.values)
            plain = as_function(without_rules(program, self.kept))
            dys = [np.ones(a.shape, a.dtype) for a in program.out_avals if is_float(a)]
            run = quick(
                lambda *values: self.subject.pull(plain, values, dys)[1], *self.subject.values
            )
            narrow = jax.device_get(run(*self.subject.values))
        except Exception:
            return [0.0] * len(self.exact)
        lost = [lost_to_rounding(g, w) for g, w in zip(narrow, self.exact, strict=True)]
        units = [float(jax.numpy.finfo(g.dtype).eps) for g in narrow]
        if narrow_dtypes(self.program):
            # A rule and its function may hold one table rounded to two dtypes, as NumPy's float64
            # and JAX's float32: its digits are lost in float64 too, of terms as large as any.
            most = max(map(largest, self.exact))
            return [max(a, u * most) for u, a in zip(units, lost, strict=True)]
        return [rounding_of_cancelling(EPS64, u, a) for u, a in zip(units, lost, strict=True)]
