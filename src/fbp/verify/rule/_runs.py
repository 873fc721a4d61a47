"""The programs a check runs, compiled once for a function and the shapes it is given.

Two programs do almost all of the work. `exact` runs the rule and the reference, which is autodiff
of the same function without its rules, in float64. `working` runs both in the working dtype, the
one that the function is used in.
"""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fbp.verify.program._compiled import quick
from fbp.verify.program._dtypes import is_complex, is_float, narrow, wide
from fbp.verify.program._margins import SOLVE, Margins, hides_kinks, residual_of
from fbp.verify.program._numbers import EPS64
from fbp.verify.program._program import as_function, evaluate, trace
from fbp.verify.program._traits import (
    effects_of,
    iterates,
    longest_sum,
    multiplies_masks,
    primitives,
    rules_of,
)
from fbp.verify.program._wide import narrow_dtypes, widened
from fbp.verify.rule._callbacks import quiet_callbacks, said_by_user
from fbp.verify.rule._pair import Pair, to_numpy
from fbp.verify.rule._plain import float_outputs, plain_program
from fbp.verify.rule._rule import (
    changing_leaves,
    fingerprint_of,
    first_line,
    require_own_values,
    require_rule,
    traced_rule,
)
from fbp.verify.rule._subject import Subject


class Runs:
    """The programs of a subject.

    Attributes:
      diff: the indices of the differentiated leaves.
      dtypes: the working dtype of each leaf.
      out_avals: shapes and dtypes of the float outputs.
      rules: names of the custom rules in the function, and of kernels.
      program: the function in float64 without its rules; `plain` is that in the working dtype.
      rule: the outputs and the gradients by the rule, in the working dtype.
      by: how the reference differentiates: "reverse", "forward" or "differences".
      eps: the rounding unit of the float64 run; larger if a primitive cannot run in float64.
      stuck: the dtype of each primitive, by name, that cannot run in float64.
      is_stable: whether tracing the rule twice gives the same program.
      changing: the indices of the gradients whose programs differ.
      has_kernels: whether the rule, its forward included, calls Pallas kernels.
      effects: side effects in the program of the rule, except those for debugging.
      longest_sum: the terms of the longest sum, roughly.
      masks: whether the rule multiplies by masks.
      iterates: whether the function has a loop that may run until something converges.
      hides_kinks: whether it compares floats where a tie is not seen.
      draws: whether random numbers are drawn, which depend on the dtype.
      own: what the outputs of a rule's forward are held against.
      notes: what could not be done in float64, and why.
      rule_grads: the gradients by the rule, as a function of values and cotangents in float64.
      raised: what the function said at inputs where a check of its own raised.
      compiling: how many seconds the program in the working dtype took to be compiled.
      shared: what is made of the programs later, for all copies.
    """

    def __init__(self, subject: Subject, reference: Callable[..., Any] | None) -> None:
        self.subject, self.diff = subject, subject.differentiable
        self.own = "the function's own"
        if reference is not None:
            self.own = "the reference's (which has to give the same values)"
        self.notes: list[str] = []
        self.raised: list[str] = []
        self.stuck: dict[str, Any] = {}
        self.shared: dict[str, Any] = {}
        values = self.narrow(subject.values)
        self.dtypes = [leaf.dtype for leaf in values]
        self.out_avals = float_outputs(subject, values)
        dys = [jnp.zeros(a.shape, a.dtype) for a in self.out_avals]
        require_rule(subject, values, dys)

        rule, again = (traced_rule(subject, values, dys) for _ in range(2))
        for one in (rule, again):
            require_own_values(one, len(self.diff))
        self.rule = rule
        self.is_stable = fingerprint_of(rule) == fingerprint_of(again)
        self.changing: list[int | None] = []
        if not self.is_stable:
            self.changing += changing_leaves(rule, again, len(self.diff))
        self.has_kernels = "pallas_call" in primitives(rule)
        self.effects = effects_of(rule)
        program = trace(subject.f, values)
        self.rules = rules_of(program)
        self.plain = plain_program(subject, program, reference, values)
        self.by = self._way(values, dys)
        started = time.perf_counter()
        self._working_program = quick(self._in_working_dtype, values, dys)
        self.compiling = time.perf_counter() - started
        with jax.enable_x64(True):
            self._exact_program = self._in_float64(reference)

    def given(self, subject: Subject) -> "Runs":
        """The same programs, for other values of the same shapes."""
        other = copy.copy(self)
        other.subject, other.raised = subject, []
        return other

    # Run the programs.

    def exact(self, values: Sequence[Any], dys: Sequence[Any]) -> Pair:
        """Everything in float64; NaN where a check in the function raises."""
        with jax.enable_x64(True):
            return self._run(self._exact_program, self.wide(values), self.wide_dys(dys))

    def working(self, values: Sequence[Any], dys: Sequence[Any]) -> Pair:
        """Everything in the dtype the function is used in; NaN where a check in it raises."""
        return self._run(self._working_program, self.narrow(values), self.narrow_dys(dys))

    def _run(self, program: Callable[..., Pair], values: list[Any], dys: list[Any]) -> Pair:
        try:
            with quiet_callbacks():
                return to_numpy(program(values, dys))
        except RuntimeError as error:  # raised by a callback of the user's
            self.raised.append(said_by_user(error))
        out = [np.full(a.shape, np.nan) for a in self.out_avals]
        grads = [np.full(np.shape(values[i]), np.nan) for i in self.diff]
        return Pair(out, grads if self.by == "reverse" else [], out, grads, np.inf)

    # Cast to a dtype.

    def narrow(self, values: Sequence[Any]) -> list[Any]:
        """The values in the working dtype: as given, except that float64 becomes float32."""
        leaves = zip(values, self.subject.leaves, strict=True)
        return [
            np.asarray(v).astype(narrow(leaf.value).dtype) if is_float(leaf.value) else v
            for v, leaf in leaves
        ]

    def wide(self, values: Sequence[Any]) -> list[Any]:
        """The values in float64."""
        return [wide(v) for v in values]

    def narrow_dys(self, dys: Sequence[Any]) -> list[Any]:
        """Cotangents in the dtypes of the outputs."""
        return [np.asarray(d).astype(a.dtype) for d, a in zip(dys, self.out_avals, strict=True)]

    def wide_dys(self, dys: Sequence[Any]) -> list[Any]:
        """Cotangents in float64."""
        return [
            np.asarray(d).astype(np.complex128 if is_complex(a) else np.float64)
            for d, a in zip(dys, self.out_avals, strict=True)
        ]

    # Build the programs.

    def _reference(self, plain: ClosedJaxpr, values: list[Any], dys: list[Any]) -> Any:
        f = as_function(plain)
        if self.by == "reverse":
            return self.subject.pull(f, values, dys)
        return list(filter(is_float, f(values))), []

    def _way(self, values: list[Any], dys: list[Any]) -> str:
        """How the function without its rules can be differentiated: the attribute `by`."""
        floats = [values[i] for i in self.diff]
        # The transposed solve of a SOLVE is the user's and cannot be removed: reverse mode would
        # use it.
        if SOLVE not in primitives(self.plain):
            self.by = "reverse"
            try:
                jax.eval_shape(functools.partial(self._reference, self.plain), values, dys)
                return "reverse"
            except Exception as error:
                why = first_line(error)
                self.notes.append(f"no reverse-mode autodiff of the function itself: {why}")
        f = self.subject.of_floats(as_function(self.plain), values)
        try:
            jax.eval_shape(lambda v: jax.jvp(f, (v,), (v,)), floats)
            return "forward"
        except Exception:
            return "differences"

    def _in_working_dtype(self, values: list[Any], dys: list[Any]) -> Pair:
        rule_out, rule_grads = self.subject.pull(self.subject.f, values, dys)
        out, grads = self._reference(self.plain, values, dys)
        return Pair(out, grads, rule_out, rule_grads, jnp.inf)

    def _in_float64(self, reference: Callable[..., Any] | None) -> Callable[..., Any]:
        """Traces in float64 where possible, and widens programs that compute in narrower dtypes."""
        subject, plain = self.subject, self.plain
        wides = self.wide(subject.values)
        rule = None
        try:
            if not subject.as_traced:
                plain = plain_program(subject, trace(subject.f, wides), reference, wides)
                dys = [np.zeros(a.shape, a.dtype) for a in filter(is_float, plain.out_avals)]
                rule = traced_rule(subject, wides, dys)
        except Exception as error:
            self.notes.append(f"not traced in float64: {first_line(error)}")
        if rule is None:
            # Tracing in the working dtype has succeeded; that program, widened, is nearly as good.
            with jax.enable_x64(False):
                dys = [np.zeros(a.shape, a.dtype) for a in self.out_avals]
                rule = traced_rule(subject, self.narrow(subject.values), dys)
        if narrow_dtypes(plain):
            plain = trace(widened(plain, self.stuck), *wides)
        names = primitives(plain)
        self.program = plain
        self.masks = multiplies_masks(rule.jaxpr)
        self.longest_sum = max(longest_sum(rule), longest_sum(plain))
        self.iterates = iterates(plain)
        self.hides_kinks = hides_kinks(plain)
        drawn = ("random_", "threefry")
        self.draws = any(name.startswith(drawn) for name in names | primitives(rule))
        run = (
            widened(rule, self.stuck) if narrow_dtypes(rule) else functools.partial(evaluate, rule)
        )
        n = len(self.out_avals)

        def rule_grads(values: list[Any], dys: list[Any]) -> list[Any]:
            return run(*values, *dys)[n:]

        self.rule_grads = rule_grads

        def both(values: list[Any], dys: list[Any]) -> Pair:
            outs = run(*values, *dys)
            margins = Margins({plain.jaxpr.invars[i] for i in self.diff})
            margins.run(plain.jaxpr, plain.consts, values)
            out, grads = self._reference(plain, values, dys)
            residual = jnp.maximum(margins.residual(), residual_of(rule, [*values, *dys]))
            seen = margins.smallest(), margins.exponent(), residual
            return Pair(out, grads, outs[:n], outs[n:], *seen)

        # Compiling traces `both`, which completes `stuck`; so `eps` is computed after it.
        compiled = quick(both, wides, self.wide_dys(dys))
        self.eps = max([EPS64, *(float(jnp.finfo(d).eps) for d in self.stuck.values())])
        return compiled
