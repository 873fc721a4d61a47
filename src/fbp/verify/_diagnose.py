"""What is wrong with a wrong gradient: leaf, pattern, term."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fbp.verify._card import Hint
from fbp.verify._examine import Examination, Finding
from fbp.verify._patterns import Scene, close, patterns, whole
from fbp.verify._probes import Probe
from fbp.verify._runs import Pair, Runs, is_float
from fbp.verify._terms import Terms

# How much each way of explaining says; patterns have their own ranks beside these.
_OF_TERM, _OF_ALTERED = 1.5, 2.5


def diagnose(
    runs: Runs, examination: Examination, findings: list[Finding], search: bool = True
) -> list[Hint]:
    """Explanations of what was found, the best first."""
    is_wrong = any(f.verdict == "WRONG" for f in findings)
    # Where the algebra is wrong, a wrong derivative of it or an overflow says little more.
    plain = [_plain(runs, f) for f in findings if not is_wrong or f.verdict == "NONDETERMINISTIC"]
    ranked: list[tuple[float, Hint]] = [(-1.0, hint) for hint in plain if hint is not None]
    for finding in findings:
        if finding.verdict == "RANGE" and is_wrong:
            ranked.append((6.0, _plain(runs, finding)))  # type: ignore[arg-type]
    wrong: dict[int, Finding] = {}
    for finding in findings:
        if finding.verdict == "WRONG" and finding.leaf is not None:
            wrong.setdefault(finding.leaf, finding)
    for k, finding in wrong.items():
        known = np.isfinite(finding.pair.grads[k])
        if not np.isfinite(finding.pair.rule_grads[k]).all() or not known.any():
            continue
        if not known.all():
            path = runs.subject.leaves[runs.diff[k]].path
            got, want = (g[k][known] for g in (finding.pair.rule_grads, finding.pair.grads))
            sizes = _sizes(runs, {})
            ranked += [(0.0, Hint(path, *says)) for says in whole(got, want, sizes, 1e-4)]
            continue
        # Where nearly all is wrong a pattern shows least: other probes may tell more.
        telling = sorted(
            (f for f in findings if f.verdict == "WRONG" and f.leaf == k and f is not finding),
            key=lambda f: -_right_elements(f, k),
        )
        for one in (finding, *telling[:2]):
            scene = _scene(runs, examination, one, k)
            if np.isfinite(scene.got).all() and np.isfinite(scene.want).all():
                later = 0.0 if one is finding else 2.0
                ranked += [(rank + later, hint) for rank, hint in patterns(scene)]
        if finding.pair.margin <= 1e-6 and not finding.probe.ordinary:
            ranked.append(
                (3.5, Hint(scene.leaf, "mask", "wrong only at a tie or kink of the input"))
            )
    by_probe: dict[str, list[int]] = {}
    for k, finding in wrong.items():
        by_probe.setdefault(finding.probe.name, []).append(k)
    for ks in by_probe.values() if runs.by == "reverse" else ():
        probe, pair = wrong[ks[0]].probe, wrong[ks[0]].pair
        unexplained = [k for k in ks if np.isfinite(pair.grads[k]).all()]
        ranked += _altered(runs, examination, probe, pair, unexplained)
        if search:
            ranked += _terms(runs, probe, pair, unexplained)
    best: dict[tuple[str, str, str], float] = {}
    for rank, hint in ranked:
        key = (hint.leaf, hint.kind, hint.text)
        best[key] = min(rank, best.get(key, np.inf))
    hints = [Hint(*key) for key, _ in sorted(best.items(), key=lambda item: item[1])]
    return _one_of_each_kind(hints)


def _right_elements(finding: Finding, k: int) -> int:
    got, want = finding.pair.rule_grads[k], finding.pair.grads[k]
    return int((np.isclose(got, want, rtol=1e-6) & (want != 0)).sum())


def _one_of_each_kind(hints: list[Hint]) -> list[Hint]:
    """The best hint of each kind first, so that the first few say different things."""
    seen: set[str] = set()
    first: list[Hint] = []
    rest: list[Hint] = []
    for hint in hints:
        (rest if hint.kind in seen else first).append(hint)
        seen.add(hint.kind)
    return first + rest


_KINDS = {
    "RANGE": "nonfinite",
    "PRECISION": "precision",
    "NONDETERMINISTIC": "random",
    "STRUCTURE": "structure",
    "VARIANT": "variant",
    "CONVENTION": "mask",
}


def _plain(runs: Runs, finding: Finding) -> Hint | None:
    """A finding that explains itself."""
    kind = _KINDS.get(finding.verdict)
    if kind is None:
        return None
    leaf = "" if finding.leaf is None else runs.subject.leaves[runs.diff[finding.leaf]].path
    return Hint(leaf, kind, finding.says)


def _scene(runs: Runs, examination: Examination, finding: Finding, k: int) -> Scene:
    probe, pair = finding.probe, finding.pair
    leaves = runs.subject.leaves
    i = runs.diff[k]
    wide = [
        np.asarray(v, np.float64) if is_float(v) and v.dtype.kind == "f" else v
        for v in probe.values
    ]
    arrays: dict[str, np.ndarray] = {}
    integers: dict[str, np.ndarray] = {}
    for j, leaf in enumerate(leaves):
        if is_float(leaf.value):
            arrays[leaf.path] = np.asarray(wide[j])
        elif not jax.dtypes.issubdtype(leaf.value.dtype, jax.dtypes.extended):
            integers[leaf.path] = np.asarray(probe.values[j])
    x = arrays[leaves[i].path]
    for n, (out, dy) in enumerate(zip(pair.out, probe.dys, strict=True)):
        suffix = str(n) if len(pair.out) > 1 else ""
        arrays[f"y{suffix}"], arrays[f"dy{suffix}"] = np.asarray(out), np.asarray(dy)
        if np.shape(out) == x.shape:
            arrays[f"y dy{suffix}"] = out * dy
            arrays[f"x dy{suffix}"] = x * dy
    arrays["1"] = np.ones_like(x)
    for n, j in enumerate(runs.diff):
        if n != k:
            arrays[f"the gradient of {leaves[j].path}"] = pair.grads[n]
    for leaf in leaves:
        value = arrays.get(leaf.path)
        if value is not None and value.ndim and value.dtype.kind == "f":
            for axis in range(value.ndim):
                norm = np.sqrt((value**2).sum(axis))
                arrays[f"the norm of {leaf.path} along axis {axis}"] = norm
    for axis in range(x.ndim):
        if x.shape[axis] > 2 and x.dtype.kind == "f":
            arrays[f"{leaves[i].path} standardised along axis {axis}"] = _standardised(x, axis)
            arrays[f"softmax of {leaves[i].path} along axis {axis}"] = _softmax(x, axis)
    sizes = _sizes(runs, integers)
    single: Any = probe.dys[0] if len(probe.dys) == 1 and probe.dys[0].shape == x.shape else None
    if single is not None and (not single.any() or not _is_elementwise(examination, k)):
        single = None
    return Scene(
        leaf=leaves[i].path,
        got=pair.rule_grads[k],
        want=pair.grads[k],
        x=x,
        arrays=arrays,
        integers=integers,
        others={leaves[j].path: pair.grads[n] for n, j in enumerate(runs.diff) if n != k},
        sizes=sizes,
        thresholds=examination.points,
        dy=single,
    )


def _sizes(runs: Runs, integers: dict[str, np.ndarray]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for leaf in runs.subject.leaves:
        for axis, n in enumerate(leaf.value.shape):
            if n not in sizes.values():
                sizes[f"axis {axis} of {leaf.path}"] = int(n)
    for name, a in integers.items():
        for says, count in (
            (f"{name} that are true", a != 0),
            (f"{name} that are not negative", a >= 0),
        ):
            n = int(count.sum())
            if n and n not in sizes.values():
                sizes[says] = n
    n = max(1, jax.device_count())
    if n > 1 and n not in sizes.values():
        sizes["devices"] = n
    return sizes


def _is_elementwise(examination: Examination, k: int) -> bool:
    """Whether a one-hot cotangent reached no other element."""
    for probe, pair in examination.pairs:
        if probe.name == "one-hot cotangent":
            hot = probe.dys[0] != 0
            return hot.shape == pair.grads[k].shape and not pair.grads[k][~hot].any()
    return False


def _standardised(x: np.ndarray, axis: int) -> np.ndarray:
    off = x - x.mean(axis, keepdims=True)
    return off / np.maximum(np.sqrt((off**2).mean(axis, keepdims=True)), 1e-30)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(x - x.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)


def _altered(
    runs: Runs, examination: Examination, probe: Probe, pair: Pair, ks: list[int]
) -> Iterator[tuple[float, Hint]]:
    """The reference, fed other cotangents or other inputs."""
    for kind, text, values, dys in _alterations(runs, examination, probe):
        try:
            other = runs.exact(values, dys)
        except Exception:
            continue  # the reference does not take such input
        flips = [a for a in range(probe.dys[0].ndim) if text.endswith(f"dy flipped along axis {a}")]
        for k in ks:
            if flips and pair.grads[k].ndim > flips[0]:
                turned = np.flip(other.grads[k], flips[0])
                if close(pair.rule_grads[k], turned) and not close(turned, pair.grads[k]):
                    path = runs.subject.leaves[runs.diff[k]].path
                    says = f"drop: rev (flip) of dy and of the gradient along axis {flips[0]}"
                    yield _OF_TERM, Hint(path, "term", f"{says} reproduces it")
            if not other.grads or close(other.grads[k], pair.grads[k]):
                continue
            if close(pair.rule_grads[k], other.grads[k]):
                path = runs.subject.leaves[runs.diff[k]].path
                yield _OF_ALTERED, Hint(path, kind, f"{text} reproduces it")


def _alterations(
    runs: Runs, examination: Examination, probe: Probe
) -> Iterator[tuple[str, str, list[Any], list[Any]]]:
    for n, dy in enumerate(probe.dys):
        which = f"output {n}'s " if len(probe.dys) > 1 else ""
        for text, altered in _cotangents(dy):
            dys = [altered if m == n else d for m, d in enumerate(probe.dys)]
            yield "cotangent", f"feeding the reference {which}{text}", probe.values, dys
        if len(probe.dys) > 1:
            dys = [0 * d if m == n else d for m, d in enumerate(probe.dys)]
            which = ("first", "second", "third", *["later"] * n)[n]
            yield "cotangent", f"dropping the cotangent of the {which} output", probe.values, dys
    for j, leaf in enumerate(runs.subject.leaves):
        if jax.dtypes.issubdtype(leaf.value.dtype, jax.dtypes.extended):
            continue
        a = np.asarray(probe.values[j])
        for text, altered in _inputs(a):
            values = [altered if m == j else v for m, v in enumerate(probe.values)]
            yield "input", f"{leaf.path} {text}, given to the reference,", values, probe.dys
        for m, other in enumerate(runs.subject.leaves[:j]):
            b = np.asarray(probe.values[m])
            if b.shape == a.shape and b.dtype == a.dtype:
                values = list(probe.values)
                values[m], values[j] = a, b
                yield (
                    "input",
                    f"the reference with {other.path} and {leaf.path} swapped",
                    values,
                    probe.dys,
                )
                values = list(probe.values)
                values[j] = b
                yield (
                    "input",
                    f"the reference with {other.path} for {leaf.path} (swap)",
                    values,
                    probe.dys,
                )
    for earlier, _ in examination.pairs[:3]:
        if earlier.name != probe.name:
            text = "the reference at another call's input (a stale residual)"
            yield "input", text, earlier.values, probe.dys


def _cotangents(dy: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "ones for dy", np.ones_like(dy)
    with np.errstate(all="ignore"):
        yield "dy rounded to bfloat16", _rounded(dy)
    yield "|dy|", np.abs(dy)
    yield "the sign of dy", np.sign(dy)
    yield "dy clipped to [-1, 1]", np.clip(dy.real, -1, 1)
    yield "dy squared", dy * dy
    yield "the mean of dy for all", np.full_like(dy, dy.mean() if dy.size else 0)
    yield "the sum of dy for all", np.full_like(dy, dy.sum())
    for axis, n in enumerate(dy.shape):
        if n < 2:
            continue
        first = dy.take([0], axis)
        last = dy.take([-1], axis)
        yield f"the first row of dy (axis {axis}) for all", np.broadcast_to(first, dy.shape).copy()
        yield f"the last row of dy (axis {axis}) for all", np.broadcast_to(last, dy.shape).copy()
        mean = dy.mean(axis, keepdims=True)
        yield f"the mean of dy along axis {axis}", np.broadcast_to(mean, dy.shape).copy()
        yield f"the sum of dy along axis {axis}", np.broadcast_to(n * mean, dy.shape).copy()
        yield f"dy less its mean along axis {axis}", dy - mean
        for rows in {2, 3, 4, n % 4, n % 8, n % 16}:
            if 1 < rows < n:
                without = dy.copy()
                without[(slice(None),) * axis + (slice(n - rows, None),)] = 0
                yield f"dy without its last {rows} rows (axis {axis})", without
        for says, row in (("first", 0), ("last", n - 1)):
            without = dy.copy()
            without[(slice(None),) * axis + (row,)] = 0
            yield f"dy without its {says} row (axis {axis})", without
            yield f"only the {says} row of dy (axis {axis})", dy - without
        for parts in {2, jax.device_count()}:
            if parts > 1 and n % parts == 0:
                for i in range(parts):
                    part = np.zeros_like(dy)
                    rows = (slice(None),) * axis + (slice(i * n // parts, (i + 1) * n // parts),)
                    part[rows] = dy[rows]
                    yield f"only part {i + 1} of {parts} of dy (axis {axis})", part
        yield f"dy flipped along axis {axis}", np.flip(dy, axis)
        for by in (1, -1):
            yield f"dy rolled by {by} along axis {axis}", np.roll(dy, by, axis)
        for axis2 in range(axis):
            if dy.shape[axis2] == n:
                yield f"dy with axes {axis2} and {axis} transposed", dy.swapaxes(axis2, axis)


def _rounded(a: np.ndarray) -> np.ndarray:
    import jax.numpy as jnp

    return np.asarray(a).astype(jnp.bfloat16).astype(np.float64)


def _inputs(a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if a.dtype == bool:
        yield "all true (mask ignored)", np.ones_like(a)
        yield "all false", np.zeros_like(a)
        yield "inverted", ~a
    elif a.dtype.kind in "iu":
        if a.dtype.kind == "u":
            yield "changed (another key)", a + np.asarray(1, a.dtype)
            return
        one, size = np.asarray(1, a.dtype), np.asarray(a.max() + 1, a.dtype)
        for by, says in ((one, "+ 1"), (-one, "- 1")):
            yield f"{says} (index off by one)", a + by
            yield f"{says} (index off by one), round the end", np.where(a >= 0, (a + by) % size, a)
            yield f"{says} where not negative (index off by one)", np.where(a >= 0, a + by, a)
        yield "all 0 (index ignored)", np.zeros_like(a)
        for axis, n in enumerate(a.shape):
            if n > 1:
                yield f"rolled by one along axis {axis} (shifted index)", np.roll(a, 1, axis)
                yield f"rolled by minus one along axis {axis} (shifted index)", np.roll(a, -1, axis)
        return
    if a.dtype.kind == "c":
        yield "conjugated", np.conj(a)
        return
    if a.dtype.kind not in "biuf":
        a = a.astype(np.float64)
    for axes in itertools.combinations(range(a.ndim), 2):
        if all(a.shape[axis] > 1 for axis in axes):
            yield f"flipped along axes {axes}", np.flip(a, axes)
    yield "left out (zero)", np.zeros_like(a)
    yield "left out (one)", np.ones_like(a)
    yield "negated", -a
    yield "plus 1", a + np.asarray(1, a.dtype)
    yield "minus 1", a - np.asarray(1, a.dtype)
    yield "doubled", a * np.asarray(2, a.dtype)
    yield "halved", a / np.asarray(2, a.dtype)
    yield "squared", a * a
    with np.errstate(all="ignore"):
        yield "through tanh", np.tanh(a)
        yield "through relu", np.maximum(a, 0)
        if a.ndim:
            yield "through softmax", _softmax(a.astype(np.float64), a.ndim - 1).astype(a.dtype)
        yield "inverted (1/x)", np.where(a == 0, 0, 1 / np.where(a == 0, 1, a)).astype(a.dtype)
        yield "as its root", np.sqrt(np.abs(a))
    for axis, n in enumerate(a.shape):
        if n < 2:
            continue
        first = np.broadcast_to(a.take([0], axis), a.shape).copy()
        yield f"with its first row (axis {axis}) for all", first
        yield f"rolled by one along axis {axis}", np.roll(a, 1, axis)
        yield f"rolled by minus one along axis {axis}", np.roll(a, -1, axis)
        yield f"flipped along axis {axis}", np.flip(a, axis)
        for axis2 in range(axis):
            if a.shape[axis2] == n:
                yield f"with axes {axis2} and {axis} transposed", a.swapaxes(axis2, axis)


def _terms(runs: Runs, probe: Probe, pair: Pair, ks: list[int]) -> Iterator[tuple[float, Hint]]:
    try:
        terms = Terms.of(runs)
    except Exception:
        return  # a program that cannot be run with switches has no terms to name
    leaves = {k: (pair.rule_grads[k], pair.grads[k]) for k in ks}
    for k, how, text in terms.explain(probe.values, probe.dys, leaves, _sizes(runs, {})):
        path = runs.subject.leaves[runs.diff[k]].path
        scaled = 0.5 if how.startswith("scale") else 0.0
        yield _OF_TERM + scaled, Hint(path, "term", text)
