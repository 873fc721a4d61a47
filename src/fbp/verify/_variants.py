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
from fbp.verify._runs import Runs, first_line, quick

_SIDE_EFFECTS = ("UnexpectedTracerError", "ConcretizationTypeError", "TracerArrayConversionError")


class Outcome(NamedTuple):
    """What variants showed: each in a word, and what is wrong as (verdict, text)."""

    variants: dict[str, str]
    findings: list[tuple[str, str]]


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
        # Split where a program ends, to read the outcome of each.
        self.run_all = quick(lambda *flat: [evaluate(p, *flat) for p in programs], *flat)

    @classmethod
    def of(cls, runs: Runs) -> "Variants":
        """The variants of these runs, compiled once."""
        if not hasattr(runs.shared, "variants"):
            runs.shared.variants = cls(runs)
        return runs.shared.variants

    def run(self, examination: Examination) -> Outcome:
        """Runs every variant on the first two probes and compares."""
        (first, _), (second, _) = (examination.pairs * 2)[:2]
        a, b = (self.runs.narrow(p.values) for p in (first, second))
        dys_a, dys_b = (
            [np.asarray(d).astype(o.dtype) for d, o in zip(p.dys, self.runs.out_avals, strict=True)]
            for p in (first, second)
        )
        flat = jax.tree.leaves((a, b, dys_a, dys_b))
        outcomes = jax.device_get(self.run_all(*flat))
        again = jax.device_get(self.run_all(*flat))
        variants, findings = dict(self.unsupported), list(self.findings)
        if not all(map(_same_bits, jax.tree.leaves(outcomes), jax.tree.leaves(again))):
            findings.append(("NONDETERMINISTIC", "run twice on the same input, the rule differs"))
            return Outcome(variants, findings)
        for name, outs in zip(self.names, outcomes, strict=True):
            half = len(outs) // 2
            off = _relative_error(outs[:half], outs[half:])
            allowed = self._allowed(name)
            variants[name] = "same" if off <= allowed else f"differs by {off:.1e}"
            if off > allowed:
                findings.append(("VARIANT", f"under {name} the gradient differs by {off:.1e}"))
        return Outcome(variants, findings)

    def _allowed(self, name: str) -> float:
        unit = max(float(jnp.finfo(d).eps) for d in self.runs.dtypes if d is not None)
        return 1e-2 if "differentiated" in name and unit < 1e-3 else max(1e3 * unit, unit**0.5)

    def _cannot(self, name: str, error: Exception) -> None:
        kind = type(error).__name__
        if kind in _SIDE_EFFECTS:
            self.findings.append(
                ("STRUCTURE", f"under {name} the rule has a side effect: {kind}, {first_line(error)}")
            )
        self.unsupported[name] = f"not supported: {kind}: {first_line(error)[:90]}"

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
            pulls = [jax.vjp(functools.partial(self._of_floats, f, v), [v[i] for i in diff]) for v in (a, b)]
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
                    return lambda floats: pull(g, self._filled(a, floats), da)[1]

                plain = functools.partial(_evaluate_list, runs.plain)
                at, along = [a[i] for i in diff], [b[i] for i in diff]
                outs = []
                for g in (gradient(f), gradient(plain)):
                    if forward:
                        outs += jax.jvp(g, (at,), (along,))[1]
                    else:
                        outs += jax.vjp(g, at)[1](along)[0]
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
            every["the gradient differentiated forwards"] = twice(True)
            every["the gradient differentiated backwards"] = twice(False)
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
        return [jnp.stack([v, w]) if i in diff else v for i, (v, w) in enumerate(zip(a, b, strict=True))]


def _evaluate_list(program: Any, values: Sequence[Any]) -> list[Any]:
    return evaluate(program, *values)


def _pairs(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    return [jnp.stack(pair) for pair in zip(a, b, strict=True)]


def _apart(stacked: Sequence[Any]) -> list[Any]:
    return [s[0] for s in stacked] + [s[1] for s in stacked]


def _same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _relative_error(got: Sequence[Any], want: Sequence[Any]) -> float:
    """The largest error of any leaf, relative to the largest leaf there is."""
    wide = [[np.asarray(x).astype(np.complex128) for x in xs] for xs in (got, want)]
    pairs = list(zip(*wide, strict=True))
    sizes = [largest(w[np.isfinite(w)]) for _, w in pairs]
    error = 0.0
    for (g, w), size in zip(pairs, sizes, strict=True):
        both = np.isfinite(g) & np.isfinite(w)
        if (np.isfinite(w) & ~np.isfinite(g)).any():
            return float("inf")
        scale = max(size, 1e-3 * max(sizes))
        if scale:
            error = max(error, largest((g - w)[both]) / scale)
    return error
