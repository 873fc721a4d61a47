"""A rule under jax's transformations, each with the gradients expected there.

Every `run` here takes two sets of values, a and b, their cotangents, da and db, and the rule's
gradients there without a transformation, ga and gb, which are computed once for all. It returns two
lists of arrays: the rule's gradients under the transformation, and the expected ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbp.verify.program._program import as_function
from fbp.verify.rule._runs import Runs
from fbp.verify.rule._subject import Subject

Both = tuple[list[Any], list[Any]]
BACKWARDS = "the gradient differentiated backwards"
Run = Callable[[Any, Any, Any, Any, Any, Any], Both]


class Transform(NamedTuple):
    """One transformation.

    Attributes:
      name: its name in reports.
      run: returns the gradients under the transformation, and the expected ones.
      owners: for each array, the index of the differentiable leaf it is the gradient of, or None.
      is_second: whether it differentiates the gradient.
    """

    name: str
    run: Run
    owners: list[int | None]
    is_second: bool = False


def transforms(runs: Runs) -> Iterator[Transform]:
    """The transformations to try on the rule of these runs."""
    subject, diff = runs.subject, runs.diff
    each: list[int | None] = list(range(len(diff)))
    yield Transform("jit", _wrapped(subject, jax.jit), each)
    yield Transform("remat", _wrapped(subject, jax.checkpoint), each)
    yield Transform("cond", _in_a_branch(subject), each)
    yield Transform("scan", _in_a_loop(subject), each + each)
    yield Transform("vmap", _batched(subject, None), [k for k in each for _ in range(2)])
    yield Transform("two calls interleaved", _interleaved(subject), each + each)
    if len(diff) > 1:
        for k, i in list(enumerate(diff))[:4]:
            path = subject.leaves[i].path
            owners = [m for m in each for _ in range(1 if m == k else 2)]
            yield Transform(f"vmap with {path} unbatched", _batched(subject, k), owners)
            yield Transform(f"gradient by {path} alone", _by_one(subject, k), [k])
    if runs.by == "reverse" and not runs.draws:
        again = "(grad of grad)"
        owners = each + [None for _ in runs.out_avals]
        backwards = _differentiated_backwards(runs)
        yield Transform(f"{BACKWARDS} {again}", backwards, owners, True)


def _gradients(subject: Subject, values: Any, dys: Any) -> list[Any]:
    return subject.pull(subject.f, values, dys)[1]


def _wrapped(subject: Subject, change: Callable[[Any], Any]) -> Run:
    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        return subject.pull(change(subject.f), a, da)[1], ga

    return run


def _in_a_branch(subject: Subject) -> Run:
    f, first = subject.f, subject.differentiable[0]

    def chosen(values: Any) -> Any:
        def other(values: Any) -> Any:
            return jax.tree.map(jnp.zeros_like, f(values))

        # True, also of infinite values and of NaN, which no program can know before it runs.
        total = jnp.sum(values[first]).real
        return lax.cond((total == total) | (total != total), f, other, values)

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        return subject.pull(chosen, a, da)[1], ga

    return run


def _in_a_loop(subject: Subject) -> Run:
    def looped(values: Any) -> Any:
        def body(carry: None, floats: Any) -> Any:
            return carry, subject.f(subject.filled(values, floats))

        return lax.scan(body, None, [values[i] for i in subject.differentiable])[1]

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        got = subject.pull(looped, _stacked(subject, a, b), _pairs(da, db))[1]
        apart = [g[0] for g in got] + [g[1] for g in got]
        return apart, ga + gb

    return run


def _batched(subject: Subject, fixed: int | None) -> Run:
    """A batch of two; both share the fixed leaf, so its gradient is the sum over both."""
    diff = subject.differentiable
    place = None if fixed is None else diff[fixed]

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        both, others = _stacked(subject, a, b), gb
        axes = [0 if i in diff and i != place else None for i in range(len(a))]
        if place is not None:
            both[place] = a[place]
            others = _gradients(subject, [*b[:place], a[place], *b[place + 1 :]], db)
        got = subject.pull(jax.vmap(subject.f, in_axes=(axes,)), both, _pairs(da, db))[1]
        gots, wants = [], []
        for k, (g, v, w) in enumerate(zip(got, ga, others, strict=True)):
            gots += [g] if k == fixed else [g[0], g[1]]
            wants += [v + w] if k == fixed else [v, w]
        return gots, wants

    return run


def _interleaved(subject: Subject) -> Run:
    """Two forward passes, then two backward passes: a rule that keeps state mixes them up."""
    diff = subject.differentiable

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        (_, first), (_, second) = (
            jax.vjp(subject.of_floats(subject.f, v), [v[i] for i in diff]) for v in (a, b)
        )
        return first(da)[0] + second(db)[0], ga + gb

    return run


def _by_one(subject: Subject, k: int) -> Run:
    """The gradient of leaf k, with all others constant: jax may leave their gradients out."""
    diff = subject.differentiable

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        floats = [a[i] for i in diff]

        def of_one(v: Any) -> Any:
            return subject.of_floats(subject.f, a)([*floats[:k], v, *floats[k + 1 :]])

        _, vjp = jax.vjp(of_one, floats[k])
        return [vjp(da)[0]], [ga[k]]

    return run


def _differentiated_backwards(runs: Runs) -> Run:
    """The derivative of the gradient along b, from the rule and from autodiff without rules."""
    subject = runs.subject

    def run(a: Any, b: Any, da: Any, db: Any, ga: Any, gb: Any) -> Both:
        at, along = ([v[i] for i in runs.diff] for v in (a, b))

        def derivative(f: Callable[..., Any]) -> list[Any]:
            gradient = gradient_of(subject, f, a)
            return jax.tree.leaves(jax.vjp(gradient, at, da)[1](along))

        return derivative(subject.f), derivative(as_function(runs.plain))

    return run


def gradient_of(subject: Subject, f: Callable[..., Any], values: Any) -> Callable[..., Any]:
    """The gradients of f as a function of its differentiable leaves and its cotangents."""
    return lambda floats, dys: subject.pull(f, subject.filled(values, floats), dys)[1]


def _stacked(subject: Subject, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    diff = subject.differentiable
    pairs = enumerate(zip(a, b, strict=True))
    return [jnp.stack([v, w]) if i in diff else v for i, (v, w) in pairs]


def _pairs(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    return [jnp.stack(pair) for pair in zip(a, b, strict=True)]
