"""The rule under jax's transformations: algebra is checked once, everything else by parity."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fbp.verify._examine import Examination, largest
from fbp.verify._program import evaluate, trace
from fbp.verify._runs import Runs, first_line, leak, quick

_FORWARDS = "the gradient differentiated forwards (grad of grad)"
_BACKWARDS = "the gradient differentiated backwards (grad of grad)"


class Outcome(NamedTuple):
    """What variants showed: each in a word, and what is wrong as (verdict, text, leaf)."""

    variants: dict[str, str]
    findings: list[tuple[str, str, int | None]]


class Variants:
    """All variants of a rule in one program."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.unsupported: dict[str, str] = {}
        self.findings: list[tuple[str, str]] = []
        values = runs.narrow(runs.subject.values)
        dys = [jnp.zeros(a.shape, a.dtype) for a in runs.out_avals]
        args = (values, values, dys, dys)
        programs, self.names = [], []
        for name, f in self._all().items():
            try:
                programs.append(trace(f, *args))
                self.names.append(name)
            except Exception as error:
                self._cannot(name, error)
        flat = jax.tree.leaves(args)
        try:
            self.run_all = quick(lambda *flat: [evaluate(p, *flat) for p in programs], *flat)
        except Exception:
            # One of them cannot be compiled: which?
            named, self.names = dict(zip(self.names, programs, strict=True)), []
            for name, program in named.items():
                try:
                    quick(functools.partial(evaluate, program), *flat)
                    self.names.append(name)
                except Exception as error:
                    self._cannot(name, error)
            programs = [named[name] for name in self.names]
            self.run_all = quick(lambda *flat: [evaluate(p, *flat) for p in programs], *flat)

    @classmethod
    def of(cls, runs: Runs) -> "Variants":
        """The variants of these runs, compiled once."""
        if not hasattr(runs.shared, "variants"):
            runs.shared.variants = cls(runs)
        return runs.shared.variants

    def run(self, examination: Examination) -> Outcome:
        """Runs every variant on the first two probes and compares."""
        # Away from kinks, where a choice of the rule is no error of a variant.
        smooth = sorted(examination.pairs[:3], key=lambda pair: -min(pair[1].margin, 0.1))
        (first, at_first), (second, _) = (smooth * 2)[:2]
        a, b = (self.runs.narrow(p.values) for p in (first, second))
        b = [v if i in self.runs.diff else a[i] for i, v in enumerate(b)]
        dys_a, dys_b = (
            [np.asarray(d).astype(o.dtype) for d, o in zip(p.dys, self.runs.out_avals, strict=True)]
            for p in (first, second)
        )
        flat = jax.tree.leaves((a, b, dys_a, dys_b))
        outcomes = jax.device_get(self.run_all(*flat))
        again = jax.device_get(self.run_all(*flat))
        variants: dict[str, str] = dict(self.unsupported)
        findings: list[tuple[str, str, int | None]] = [(*f, None) for f in self.findings]
        if not all(map(_same_bits, jax.tree.leaves(outcomes), jax.tree.leaves(again))):
            says = "run twice on the same input, the rule differs"
            findings.append(("NONDETERMINISTIC", says, None))
            return Outcome(variants, findings)
        # What a rule loses in this dtype it may lose differently each time.
        units = [
            r.working * float(jnp.finfo(self.runs.dtypes[i]).eps)
            for r, i in zip(examination.leaves, self.runs.diff, strict=True)
        ]
        lost = 4 * max(units, default=0.0)
        size = max((largest(g) for g in at_first.rule_grads), default=0.0)
        for name, outs in zip(self.names, outcomes, strict=True):
            half = len(outs) // 2
            if name in (_FORWARDS, _BACKWARDS):
                # What autodiff holds fixed by stop_gradient has another derivative of its own.
                held = self.runs.holds_fixed or any(not r.seen for r in examination.leaves)
                if held or at_first.margin < 1e-4:
                    why = (
                        "the function holds something fixed" if held else "all inputs are at kinks"
                    )
                    variants[name] = f"not compared: {why}"
                    continue
            floor = 1e-3 * size if name in (_FORWARDS, _BACKWARDS) else 0.0
            errors = _relative_errors(outs[:half], outs[half:], floor)
            allowed = max(self._allowed(name), lost)
            off = max(errors, default=0.0)
            if name in (_FORWARDS, _BACKWARDS) and np.isinf(off) and self.runs.iterates:
                variants[name] = "not compared: the derivative of a loop is not finite"
                continue
            variants[name] = "same" if off <= allowed else f"differs by {off:.1e}"
            if off > allowed and name == "jit":
                says = "traced again, the rule gives another gradient"
                findings.append(("NONDETERMINISTIC", says, None))
            elif off > allowed:
                owners = self._owners(name, half)
                wrong = {k for k, e in zip(owners, errors, strict=True) if e > allowed}
                says = f"under {name} the gradient differs by {off:.1e}"
                findings += [("VARIANT", says, k) for k in sorted(wrong)]
        return Outcome(variants, findings)

    def _owners(self, name: str, count: int) -> list[int]:
        """Which gradient each of a variant's arrays is of."""
        diff = self.runs.diff
        paths = [self.runs.subject.leaves[i].path for i in diff]
        every = list(range(len(diff)))
        if name.startswith("gradient by "):
            return [paths.index(name.removeprefix("gradient by ").removesuffix(" alone"))]
        if name.startswith("vmap"):
            fixed = name.removeprefix("vmap with ").removesuffix(" unbatched")
            return [k for k in every for _ in range(1 if paths[k] == fixed else 2)]
        return (every * (1 + count // len(every)))[:count]

    def _allowed(self, name: str) -> float:
        unit = max(float(jnp.finfo(d).eps) for d in self.runs.dtypes if d is not None)
        return 1e-2 if "differentiated" in name and unit < 1e-3 else max(1e3 * unit, unit**0.5)

    def _cannot(self, name: str, error: Exception) -> None:
        kind = type(error).__name__
        if leak(error):
            self.findings.append(("STRUCTURE", f"{leak(error)} (under {name})"))
        self.unsupported[name] = f"not supported: {kind}: {first_line(error)[:90]}"
        lost = [n for n in (_FORWARDS, _BACKWARDS) if n in self.unsupported]
        # Kernels have no derivative of their own: that is a limit, and no mistake of the rule.
        if len(lost) == 2 and not self.runs.has_kernels and self._is_twice_differentiable():
            text = f"its gradient cannot be differentiated (grad of grad): {first_line(error)[:90]}"
            self.findings.append(("VARIANT", text))

    def _is_twice_differentiable(self) -> bool:
        """Whether the function without its rules is."""
        runs = self.runs
        values = runs.narrow(runs.subject.values)
        dys = [jnp.zeros(a.shape, a.dtype) for a in runs.out_avals]

        def gradient(floats: Any) -> Any:
            f = functools.partial(_evaluate_list, runs.plain)
            return runs.pull(f, self._filled(values, floats), dys)[1]

        floats = [values[i] for i in runs.diff]
        try:
            jax.eval_shape(lambda v: jax.jvp(gradient, (v,), (v,)), floats)
        except Exception:
            return False
        return True

    def _all(self) -> dict[str, Callable[..., Any]]:
        """Functions that give what a variant gives and what it should, one after the other."""
        runs, f = self.runs, self.runs.subject.f
        pull = runs.pull
        diff = runs.diff
        paths = [runs.subject.leaves[i].path for i in diff]

        def base(values: Any, dys: Any) -> list[Any]:
            return pull(f, values, dys)[1]

        def one(change: Callable[[Any], Any]) -> Callable[..., Any]:
            return lambda a, b, da, db: pull(change(f), a, da)[1] + base(a, da)

        def interleaved(a: Any, b: Any, da: Any, db: Any) -> Any:
            pulls = [
                jax.vjp(functools.partial(self._of_floats, f, v), [v[i] for i in diff])
                for v in (a, b)
            ]
            (_, first), (_, second) = pulls
            return first(da)[0] + second(db)[0] + base(a, da) + base(b, db)

        def branch(a: Any, b: Any, da: Any, db: Any) -> Any:
            def chosen(values: Any) -> Any:
                def other(values: Any) -> Any:
                    return jax.tree.map(jnp.zeros_like, f(values))

                return lax.cond(jnp.sum(values[diff[0]]).real < jnp.inf, f, other, values)

            return pull(chosen, a, da)[1] + base(a, da)

        def scanned(a: Any, b: Any, da: Any, db: Any) -> Any:
            both, dys = self._stacked(a, b), _pairs(da, db)

            def looped(values: Any) -> Any:
                fixed = [None if i in diff else v for i, v in enumerate(values)]

                def body(carry: None, floats: Any) -> Any:
                    return carry, f(self._filled(fixed, floats))

                return lax.scan(body, None, [values[i] for i in diff])[1]

            return _apart(pull(looped, both, dys)[1]) + base(a, da) + base(b, db)

        def batched(fixed: int | None) -> Callable[..., Any]:
            def run(a: Any, b: Any, da: Any, db: Any) -> Any:
                both, dys = self._stacked(a, b), _pairs(da, db)
                axes = [0 if i in diff else None for i in range(len(a))]
                mixed = list(b)
                if fixed is not None:
                    axes[fixed], both[fixed], mixed[fixed] = None, a[fixed], a[fixed]
                got = pull(jax.vmap(f, in_axes=(axes,)), both, dys)[1]
                wanted = list(zip(base(a, da), base(mixed, db), strict=True))
                firsts, seconds = [], []
                for g, (w, v), i in zip(got, wanted, diff, strict=True):
                    firsts += [g] if i == fixed else [g[0], g[1]]
                    seconds += [w + v] if i == fixed else [w, v]
                return firsts + seconds

            return run

        def alone(k: int) -> Callable[..., Any]:
            def run(a: Any, b: Any, da: Any, db: Any) -> Any:
                def of_one(v: Any) -> Any:
                    values = list(a)
                    values[diff[k]] = v
                    return runs.floats_out(f(values))

                _, vjp = jax.vjp(of_one, a[diff[k]])
                return [vjp(da)[0], base(a, da)[k]]

            return run

        def twice(forward: bool) -> Callable[..., Any]:
            """The derivative of the gradient, by the rule and by the function without it."""

            def run(a: Any, b: Any, da: Any, db: Any) -> Any:
                def gradient(g: Callable[..., Any]) -> Any:
                    return lambda floats, dys: pull(g, self._filled(a, floats), dys)[1]

                plain = functools.partial(_evaluate_list, runs.plain)
                at, along = ([v[i] for i in diff] for v in (a, b))
                outs = []
                for g in (gradient(f), gradient(plain)):
                    if forward:
                        outs += jax.jvp(g, (at, da), (along, db))[1]
                    else:
                        outs += jax.tree.leaves(jax.vjp(g, at, da)[1](along))
                return outs

            return run

        every = {
            "jit": one(jax.jit),
            "remat": one(jax.checkpoint),
            "cond": branch,
            "scan": scanned,
            "vmap": batched(None),
            "two calls interleaved": interleaved,
        }
        if len(diff) > 1:
            for k, path in list(enumerate(paths))[:4]:
                every[f"vmap with {path} unbatched"] = batched(diff[k])
                every[f"gradient by {path} alone"] = alone(k)
        if runs.by == "reverse" and not runs.draws:
            every[_FORWARDS] = twice(True)
            every[_BACKWARDS] = twice(False)
        return every

    def _of_floats(self, f: Callable[..., Any], values: Any, floats: Any) -> Any:
        return self.runs.floats_out(f(self._filled(values, floats)))

    def _filled(self, values: Sequence[Any], floats: Sequence[Any]) -> list[Any]:
        filled = list(values)
        for i, v in zip(self.runs.diff, floats, strict=True):
            filled[i] = v
        return filled

    def _stacked(self, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        diff = self.runs.diff
        return [
            jnp.stack([v, w]) if i in diff else v for i, (v, w) in enumerate(zip(a, b, strict=True))
        ]


def _evaluate_list(program: Any, values: Sequence[Any]) -> list[Any]:
    return evaluate(program, *values)


def _pairs(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    return [jnp.stack(pair) for pair in zip(a, b, strict=True)]


def _apart(stacked: Sequence[Any]) -> list[Any]:
    return [s[0] for s in stacked] + [s[1] for s in stacked]


def _same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _relative_errors(got: Sequence[Any], want: Sequence[Any], floor: float) -> list[float]:
    """The largest error of each array, relative to its size or a thousandth of the largest."""
    wide = [[np.asarray(x).astype(np.complex128) for x in xs] for xs in (got, want)]
    pairs = list(zip(*wide, strict=True))
    sizes = [largest(w[np.isfinite(w)]) for _, w in pairs]
    errors = []
    for (g, w), size in zip(pairs, sizes, strict=True):
        both = np.isfinite(g) & np.isfinite(w)
        scale = max(size, 1e-3 * max(sizes), floor)
        lost = (np.isfinite(w) & ~np.isfinite(g)).any()
        error = largest((g - w)[both]) / scale if scale else 0.0
        errors.append(float("inf") if lost else error)
    return errors
