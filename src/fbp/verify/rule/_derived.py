"""Programs that only some checks need, derived from the runs on first use and cached."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.program._altered import free_of_stops, nudged, refined
from fbp.verify.program._compiled import as_without_jit, quick
from fbp.verify.program._numbers import largest
from fbp.verify.program._program import as_function, trace
from fbp.verify.program._traits import primitives
from fbp.verify.rule._callbacks import quiet_callbacks
from fbp.verify.rule._runs import Runs

Values = Sequence[Any]
Moves = dict[int, np.ndarray]
# Every combination of sides is tried for this many comparisons; the others repeat their sides.
_SIDES = 3


def forward_slope(
    runs: Runs, values: Values, dys: Values, moves: Moves, further: bool = False
) -> float:
    """The derivative of <dy, f> along `moves` of some leaves, by forward-mode autodiff.

    Args:
      runs: the rule and the reference.
      values: the values of all leaves.
      dys: the cotangents.
      moves: the directions, keyed by leaf; zero for the others.
      further: whether the converged loops of f run for more steps.
    """

    def along(values: list[Any], dys: list[Any], moves: list[Any]) -> Any:
        f = runs.subject.of_floats(_plain(runs, further), values)
        _, along = jax.jvp(f, ([values[i] for i in runs.diff],), (moves,))
        # A VJP in JAX contracts without conjugation.
        return sum(jnp.sum(d * a).real for d, a in zip(dys, along, strict=True))

    zeros = [np.zeros(np.shape(values[i])) for i in runs.diff]
    every = [moves.get(i, zero) for i, zero in zip(runs.diff, zeros, strict=True)]
    return float(_run(runs, f"slope {further}", along, values, dys, every))


def derivative_along(runs: Runs, values: Values, moves: Moves) -> list[np.ndarray]:
    """The derivatives of the outputs along `moves` of some leaves, by forward-mode autodiff."""

    def along(values: list[Any], dys: list[Any], moves: list[Any]) -> Any:
        f = runs.subject.of_floats(_plain(runs, False), values)
        return jax.jvp(f, ([values[i] for i in runs.diff],), (moves,))[1]

    zeros = [np.zeros(np.shape(values[i])) for i in runs.diff]
    every = [moves.get(i, zero) for i, zero in zip(runs.diff, zeros, strict=True)]
    dys = [np.zeros(a.shape) for a in runs.out_avals]
    return list(_run(runs, "derivative along", along, values, dys, every))


def second(
    runs: Runs, values: Values, dys: Values, moves: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The derivatives of the gradients along `moves` of the differentiable leaves, in float64.

    Returns:
      Those of the rule's gradients, and those of the reference's, or [] if it has no reverse mode.
    """

    def both(values: list[Any], dys: list[Any], moves: list[Any]) -> Any:
        def along(grads: Callable[..., Any]) -> Any:
            def of_floats(floats: list[Any]) -> Any:
                return grads(runs.subject.filled(values, floats), dys)

            return jax.jvp(of_floats, ([values[i] for i in runs.diff],), (moves,))[1]

        plain = as_function(runs.program)
        auto = along(functools.partial(_pull, runs, plain)) if runs.by == "reverse" else []
        return along(runs.rule_grads), auto

    return _run(runs, "second", both, values, dys, moves)


def along_dy(runs: Runs, values: Values, dys: Values) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The derivatives of the rule's gradients along dy itself, and these gradients: the same, as
    they are linear in dy. A rule that holds dy fixed loses what flows through it a second time."""

    def both(values: list[Any], dys: list[Any], _: Any) -> Any:
        grads, along = jax.jvp(lambda dys: runs.rule_grads(values, dys), (dys,), (dys,))
        return along, grads

    return _run(runs, "along dy", both, values, dys, [])


def refined_gradients(runs: Runs, values: Values, dys: Values) -> list[np.ndarray]:
    """The reference gradients of the program whose converged loops run for more steps."""

    def gradients(values: list[Any], dys: list[Any], _: Any) -> Any:
        return _pull(runs, _plain(runs, further=True), values, dys)

    return _run(runs, "refined", gradients, values, dys, [])


def one_sided_gradients(runs: Runs, values: Values, dys: Values) -> list[list[np.ndarray]]:
    """The reference gradients with ties broken, one list for each combination of sides."""

    def gradients(values: list[Any], dys: list[Any], _: Any) -> Any:
        sides = []
        for signs in itertools.product((1, -1), repeat=_SIDES):
            program = trace(nudged(runs.program, signs), *values)
            sides.append(_pull(runs, as_function(program), values, dys))
        return sides

    return _run(runs, "one-sided", gradients, values, dys, [])


def gradients_without_jit(runs: Runs, values: Values, dys: Values) -> list[np.ndarray]:
    """The rule's gradients as they are without jit: NaN where it multiplies infinity by a mask."""

    def gradients(values: list[Any], dys: list[Any], _: Any) -> Any:
        return runs.rule_grads(values, dys)

    return _run(runs, "without jit", gradients, values, dys, [], as_without_jit)


def holds_fixed(runs: Runs) -> bool:
    """Whether the function has a stop_gradient that its gradient depends on.

    The one inside a softmax does not change the gradient. The gradients with and without
    stop_gradient are compared at the given input and at a random one near it.
    """
    if "stop_gradient" not in primitives(runs.program):
        return False
    if runs.by != "reverse":
        return True

    def both(values: list[Any], dys: list[Any], _: Any) -> Any:
        free = as_function(trace(free_of_stops(runs.program), *values))
        plain = as_function(runs.program)
        return _pull(runs, plain, values, dys), _pull(runs, free, values, dys)

    def compared() -> bool:
        rng = np.random.default_rng(0)
        given = runs.wide(runs.subject.values)
        near = [
            v + 0.3 * np.std(v) * rng.normal(size=v.shape) if i in runs.diff and v.size else v
            for i, v in enumerate(given)
        ]
        dys = [rng.normal(size=a.shape) for a in runs.out_avals]
        for values in (given, near):
            try:
                held, free = _run(runs, "held", both, values, dys, [])
            except Exception:  # without stop_gradient there is no gradient, as of a while loop
                return True
            for a, b in zip(held, free, strict=True):
                known = np.isfinite(a) & np.isfinite(b)
                if largest((a - b)[known]) > 1e-9 * largest(b[known]):
                    return True
        return False

    return once(runs, "holds fixed", compared)


def _plain(runs: Runs, further: bool) -> Callable[[Values], list[Any]]:
    """The function without its rules; if `further`, its converged loops run for more steps."""
    program = runs.program
    return (lambda values: refined(program)(*values)) if further else as_function(program)


def _pull(runs: Runs, f: Callable[..., Any], values: Values, dys: Values) -> Any:
    return runs.subject.pull(f, values, dys)[1]


def once(runs: Runs, name: str, make: Callable[[], Any]) -> Any:
    """The result of `make`, cached under a name for all runs of the same programs."""
    if name not in runs.shared:
        runs.shared[name] = make()
    return runs.shared[name]


def _run(
    runs: Runs,
    name: str,
    f: Callable[..., Any],
    values: Values,
    dys: Values,
    moves: Values,
    compiled: Callable[..., Any] = quick,
) -> Any:
    """Runs f on values, cotangents and moves in float64, compiled on the first call."""
    with jax.enable_x64(True), quiet_callbacks():
        wides = runs.wide(values)
        along = [np.asarray(m, wides[i].dtype) for i, m in zip(runs.diff, moves, strict=False)]
        args = wides, runs.wide_dys(dys), along
        return jax.device_get(once(runs, name, lambda: compiled(f, *args))(*args))
