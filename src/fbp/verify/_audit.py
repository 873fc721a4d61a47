"""`fbp.audit`: every custom rule of a whole program, checked in place."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fbp._text import align
from fbp.verify._card import FAILING, Report, as_json, worst
from fbp.verify._check import Budget, examine
from fbp.verify._examine import largest
from fbp.verify._harvest import Reached, harvest, sites_of
from fbp.verify._program import bind, dtype_of, evaluate, trace, without_rules
from fbp.verify._report import WrongGradientError
from fbp.verify._runs import first_line, is_float, quick
from fbp.verify._subject import Leaf, Subject, subject_of
from fbp.verify._wide import narrow_dtypes, widened


@dataclasses.dataclass(frozen=True)
class SiteReport:
    """One custom rule of a program, at the places that call it alike.

    Attributes:
      rule: the function the rule belongs to.
      source: file and line of the first call, or "".
      calls: how many calls there are; those in loops count once.
      report: what a check with the real inputs and cotangents of the first call found.
      effect: how far this rule alone moves the gradient of the whole from its reference, relative
        to the largest change of a leaf.
    """

    rule: str
    source: str
    calls: int
    report: Report
    effect: float


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """What `fbp.audit` found; `str()` is a page to read.

    Attributes:
      name: the loss.
      verdict: one word: the worst of the sites, and of the whole.
      gradients: by leaf of the params, the error of the whole gradient in float64, relative.
      sites: a report for every custom rule.
      notes: what a reader should know.
      seconds: how long it took.
    """

    name: str
    verdict: str
    gradients: dict[str, float]
    sites: tuple[SiteReport, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every rule can be trusted."""
        return self.verdict not in FAILING

    @property
    def culprits(self) -> tuple[SiteReport, ...]:
        """The sites that are not right, the one that moves the whole gradient most first."""
        quiet = ("OK", "CONVENTION", "VACUOUS")
        wrong = [site for site in self.sites if site.report.verdict not in quiet]
        return tuple(sorted(wrong, key=lambda site: -site.effect))

    def raise_if_wrong(self) -> None:
        """Raises WrongGradientError unless `ok`, in one line."""
        if not self.ok:
            raise WrongGradientError(self.line())

    def line(self) -> str:
        """The report in one line."""
        said = [f"{s.rule} ({s.source}): {s.report.line()}" for s in self.culprits[:2]]
        return f"{self.verdict} {self.name}: {'; '.join(said or self.notes)}"

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON; infinite numbers as strings."""
        sites = [{**vars(site), "report": site.report.fields()} for site in self.sites]
        return as_json({"ok": self.ok, **vars(self), "sites": sites}, indent)

    def __str__(self) -> str:
        return self.card()

    def card(self, colour: bool = False) -> str:
        """The report to read: a table of the sites, then a card for each that is not OK."""
        off = max(self.gradients.values(), default=0.0)
        head = f"{self.verdict}  {self.name}: {len(self.sites)} custom rules"
        lines = [f"{head}; the whole gradient is off by {off:.1e} of its leaf in float64"]
        if self.sites:
            rows = [["rule", "called at", "calls", "verdict", "moves the gradient by"]]
            rows += [
                [s.rule, s.source, str(s.calls), s.report.verdict, f"{s.effect:.1e}"]
                for s in self.sites
            ]
            lines.append(align(rows))
        lines += [s.report.card(colour) for s in self.sites if s.report.verdict != "OK"]
        wrong = {path: e for path, e in self.gradients.items() if e > 1e-6}
        if wrong:
            named = ", ".join(f"{path} by {e:.1e}" for path, e in list(wrong.items())[:8])
            lines.append(f"gradients that are off: {named}")
        if self.culprits and self.culprits[0].effect > 1e-6:
            culprit = self.culprits[0]
            lines.append(f"what breaks it: {culprit.rule}, called at {culprit.source}")
        lines += [f"note  {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.seconds:.2f} s"])


def audit(
    loss: Callable[..., Any], params: Any, *batch: Any, budget: Budget = "fast", seed: int = 0
) -> AuditReport:
    """Finds every custom rule in a program, checks each in place, and says which breaks the whole.

    The program of `loss(params, *batch)` is run once, forwards and backwards, without its rules in
    force; the inputs and cotangents that reach each `custom_vjp` and `custom_jvp` call, also inside
    jit, scan, cond and remat, are what its check starts from. So it works on any program: of flax,
    equinox or plain JAX. Calls that are alike, as those of equal blocks, are checked once, on the
    inputs of the first.

    Args:
      loss: a function of params and the batch; its float outputs are what is differentiated.
      params: a tree of arrays (other values stay as they are).
      *batch: the rest of its arguments.
      budget: of each check, as for `fbp.check`.
      seed: of what is drawn.

    Raises:
      ValueError: params hold no floats; loss raises, or gives no floats.
    """
    started = time.perf_counter()
    subject = subject_of(loss, (params, *batch), argnums=(0,))
    notes: list[str] = []
    narrow = subject.values
    try:
        program = trace(subject.f, narrow)
    except Exception as error:
        text = f"{subject.name} raises on these arguments: {first_line(error)}"
        raise ValueError(text) from error
    if not sites_of(program, narrow):
        note = "no custom rule is reached: there is nothing to audit"
        return AuditReport(subject.name, "VACUOUS", {}, (), (note,), time.perf_counter() - started)
    outs = [i for i, a in enumerate(program.out_avals) if is_float(a)]
    if not outs:
        raise ValueError(f"{subject.name}: expected an output with floats")
    dys = [np.ones(program.out_avals[i].shape, program.out_avals[i].dtype) for i in outs]
    reached = harvest(program, narrow, dys, outs)
    groups: dict[Any, list[Reached]] = {}
    for one in reached:
        groups.setdefault(_alike(one), []).append(one)
    whole = _Whole(subject, notes)
    sites = []
    for group in groups.values():
        report = _check_site(group[0], budget, seed)
        numbers = [one.site.number for one in group]
        effect = whole.error(numbers) if not report.ok else 0.0
        sites.append(SiteReport(group[0].site.name, _place(group[0]), len(group), report, effect))
    errors = whole.errors()
    verdicts = [site.report.verdict for site in sites]
    off = max(errors.values(), default=0.0)
    if off > whole.allowed and "CONVENTION" in verdicts and worst(verdicts) == "CONVENTION":
        notes.append("the whole gradient is another one at a kink: see the conventions")
    elif off > whole.allowed and worst(verdicts) == "OK":
        notes.append("the whole gradient is off, though every rule alone is right")
        verdicts.append("WRONG")
    verdict = (
        worst(v for v in verdicts if v != "VACUOUS") if set(verdicts) - {"VACUOUS"} else "VACUOUS"
    )
    return AuditReport(
        *(subject.name, verdict, errors, tuple(sites), tuple(notes)),
        time.perf_counter() - started,
    )


class _Whole:
    """The gradient of the whole program, with all, none or some of its rules in force."""

    def __init__(self, subject: Subject, notes: list[str]) -> None:
        self.subject = subject
        self.diff = subject.differentiable
        self.values, self.x64 = subject.values, True
        self.stuck: dict[str, Any] = {}
        try:
            with jax.enable_x64(True):
                wide = [
                    np.asarray(v, np.float64) if is_float(v) and v.dtype.kind != "c" else v
                    for v in subject.values
                ]
                self.program = trace(subject.f, wide)
                self.values = wide
        except Exception as error:
            notes.append(f"not traced in float64: {error}"[:200])
            self.x64 = False
            self.program = trace(subject.f, subject.values)
        self.outs = [i for i, a in enumerate(self.program.out_avals) if is_float(a)]
        self.exact = self._gradient(without_rules(self.program))

    def _gradient(self, program: Any) -> list[np.ndarray]:
        def gradient(*values: Any) -> list[Any]:
            def f(floats: list[Any]) -> list[Any]:
                filled = list(values)
                for i, v in zip(self.diff, floats, strict=True):
                    filled[i] = v
                results = evaluate(program, *filled)
                return [results[i] for i in self.outs]

            outs, vjp = jax.vjp(f, [values[i] for i in self.diff])
            return vjp([jax.numpy.ones(o.shape, o.dtype) for o in outs])[0]

        with jax.enable_x64(self.x64):
            run: Any = gradient
            if self.x64:
                traced = trace(gradient, *self.values)
                if narrow_dtypes(traced):  # a loss that casts inside
                    run = widened(traced, self.stuck)
            compiled = quick(run, *self.values)
            return [np.asarray(g) for g in jax.device_get(compiled(*self.values))]

    @property
    def allowed(self) -> float:
        """How far rounding may take the whole gradient, relative to a leaf."""
        if not self.x64:
            return np.inf
        units = [float(jax.numpy.finfo(d).eps) for d in self.stuck.values()]
        return max([1e-6, *(unit ** (2 / 3) for unit in units)])

    def errors(self) -> dict[str, float]:
        """By leaf, how far all rules together move the gradient."""
        got = self._gradient(self.program)
        return {
            self.subject.leaves[i].path: _relative(g, w)
            for i, g, w in zip(self.diff, got, self.exact, strict=True)
        }

    def error(self, numbers: Sequence[int]) -> float:
        """How far the rules of these numbers alone move it."""
        got = self._gradient(without_rules(self.program, numbers))
        return max(map(_relative, got, self.exact), default=0.0)


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    size, error = largest(want), largest(got - want)
    return error / size if size else (float("inf") if error else 0.0)


def _alike(one: Reached) -> Any:
    """What two calls share that are the same rule of the same shapes."""
    eqn = one.site.eqn
    rule = eqn.params.get("bwd", eqn.params.get("jvp_jaxpr_fun"))
    # Two closures of one function may hold different things: they are two rules.
    return str(eqn.params["call_jaxpr"]), one.site.name, id(getattr(rule, "f", rule))


def _place(one: Reached) -> str:
    if one.site.source is None:
        return ""
    file, line = one.site.source
    return f"{os.path.basename(file)}:{line}"


def _check_site(one: Reached, budget: Budget, seed: int) -> Report:
    eqn = one.site.eqn
    inputs, cotangents = one.at(-1)

    def f(values: Sequence[Any]) -> list[Any]:
        dtypes = [dtype_of(v) for v in eqn.invars]
        fitting = [
            v if not is_float(v) or v.dtype == d else jax.lax.convert_element_type(v, d)
            for v, d in zip(values, dtypes, strict=True)
        ]
        return bind(eqn, fitting)

    leaves = tuple(
        Leaf(name, np.asarray(v) if not _is_key(v) else v, is_float(v))
        for name, v in zip(one.site.operands, inputs, strict=True)
    )
    if not any(leaf.differentiable for leaf in leaves):
        return Report(one.site.name, "VACUOUS", notes=("nothing here can be differentiated",))
    subject = Subject(one.site.name, f, leaves, None, f)
    dys = [c for c in cotangents if c is not None]
    usable = all(np.isfinite(c).all() for c in dys) and any(np.any(c) for c in dys)
    return examine(subject, None, dys if usable else None, budget, seed)


def _is_key(value: Any) -> bool:
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
