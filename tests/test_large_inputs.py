"""Inputs so large that what a rule subtracts nearly cancels: as many digits as autodiff keeps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    CORE,
    Case,
    auto,
    by_name_core_mostly,
    cast,
    draw,
    is_float,
    leaf_errors,
    normal_like,
    output,
    rule,
)

import fbp

# Three seeds and three sizes, compiled twice and in float64: seconds a row.
pytestmark = pytest.mark.slow

EPS = float(jnp.finfo(jnp.float32).eps)
SEEDS = 3


def as_good_as_autodiff(
    hand: Any, control: Any, draws: Callable[[int], tuple[Any, ...]], dys: Callable[..., Any]
) -> None:
    """Requires that no leaf of `hand` in float32 errs by more than twice what `control` errs by
    at most over the seeds, and 8 roundings: the two round other products, in another order.

    Both are compared with `control` in float64, at the same numbers. That one errs itself by a
    rounding of float64 for each part of dy, where a slope is computed as 1 minus what is near 1.
    """
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(SEEDS):
        args = draws(seed)
        dy = dys(seed, *args)
        got, theirs = hand(*args, dy), control(*args, dy)
        with jax.enable_x64(True):
            want = control(*cast((*args, dy), np.float64))
        sizes = [np.abs(a).max(initial=0.0) for a in jax.tree.leaves(dy)]
        floor = 2**-52 * float(max(sizes))
        errors = (leaf_errors(a, want, floor) for a in (got, theirs))
        for path, pair in zip_values(*errors):
            worst[path] = tuple(map(max, worst.get(path, pair), pair))
    assert worst or not jax.tree.leaves(want)
    wrong = {p: f"{a:.1e}, autodiff {b:.1e}" for p, (a, b) in worst.items() if a > 2 * b + 8 * EPS}
    assert not wrong, wrong


def zip_values(a: dict[str, float], b: dict[str, float]) -> Any:
    return ((key, (a[key], b[key])) for key in a)


def times(x: Any, factor: float) -> Any:
    """Scores far apart: probabilities of 0 and 1."""
    return jax.tree.map(lambda a: a * factor if is_float(a) else a, x)


def plus(x: Any, offset: float) -> Any:
    """Large numbers that differ little: where their mean or maximum has to cancel."""
    return jax.tree.map(lambda a: a + offset if is_float(a) else a, x)


@pytest.mark.parametrize("how", [times, plus])
@by_name_core_mostly([case for case in CASES if case.name in CORE and not case.noisy])
def test_a_rule_is(case: Case, how: Any) -> None:
    hand = jax.jit(functools.partial(rule, case.layer))
    control = jax.jit(functools.partial(auto, case.layer))

    def dys(seed: int, params: Any, x: Any) -> Any:
        return normal_like(100 + seed, output(case.layer, params, x))

    for size in (10.0, 100.0, 1000.0):

        def draws(seed: int, size: float = size) -> tuple[Any, ...]:
            params, x = draw(case, seed, jnp.float32)
            return params, how(x, size)

        as_good_as_autodiff(hand, control, draws, dys)


LOSSES: dict[str, tuple[fbp.Loss, Any]] = {
    "softmax": (fbp.SoftmaxCrossEntropy(), "labels"),
    "softmax_smoothed": (fbp.SoftmaxCrossEntropy(label_smoothing=0.1), "labels"),
    "sigmoid": (fbp.SigmoidCrossEntropy(), "parts"),
    "squared": (fbp.MeanSquaredError(), "normal"),
    "unembed": (fbp.UnembedCrossEntropy(5, 7), "labels"),
    "unembed_chunks": (fbp.UnembedCrossEntropy(5, 7, chunk=3, label_smoothing=0.1), "labels"),
    "unembed_z": (fbp.UnembedCrossEntropy(5, 7, z_loss=1e-3), "labels"),
    "unembed_softcap": (fbp.UnembedCrossEntropy(5, 7, softcap=30.0), "labels"),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(n, how, marks=[pytest.mark.exhaustive] * ("unembed_" in n and how is plus))
        for n in LOSSES
        for how in (times, plus)
    ],
)
def test_a_loss_is(name: str, how: Any) -> None:
    loss, kind = LOSSES[name]
    rng = np.random.default_rng(7)
    targets = {
        "labels": rng.integers(5, size=8, dtype=np.int32),
        "parts": rng.uniform(size=(8, 5)).astype(np.float32),
        "normal": rng.normal(size=(8, 5)).astype(np.float32),
    }
    target = jnp.asarray(targets[kind])

    def hand(params: Any, y: Any, dloss: Any) -> Any:
        _, dparams, dy = loss.value_and_grad(params, y, target.astype(widened(y)))
        return dparams, dy

    def control(params: Any, y: Any, dloss: Any) -> Any:
        of = functools.partial(loss.value, target=target.astype(widened(y)))
        return jax.grad(of, (0, 1))(params, y)

    def widened(y: Any) -> Any:
        return y.dtype if is_float(target) else target.dtype

    for size in (10.0, 100.0, 1000.0):

        def draws(seed: int, size: float = size) -> tuple[Any, ...]:
            rng = np.random.default_rng(seed)
            params = jax.tree.map(
                lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32),
                loss.init(jax.random.key(0)),
            )
            return params, how(jnp.asarray(rng.normal(size=(8, 5)), jnp.float32), size)

        as_good_as_autodiff(hand, control, draws, lambda *_: jnp.ones(()))
