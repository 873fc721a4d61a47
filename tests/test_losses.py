"""Losses: against autodiff, plain formulas, optax, and 50 digits where floats end."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import loss_cases
import mpmath
import numpy as np
import optax
import pytest
from cases import assert_close, chunks

import fbp
from fbp import Weighted
from fbp.losses._metric import _find

# A mean of at most 105 terms, each a few roundings of eps = 2.2e-16; a wrong factor is of order 1.
ROUNDING = 1e-12
# Against a formula in another order of summation: the terms are positive, nothing cancels.
FORMULA = 1e-13

REGRESSION = {
    "mse": fbp.MeanSquaredError(),
    "mae": fbp.MeanAbsoluteError(),
    "huber": fbp.Huber(),
    "huber_wide": fbp.Huber(delta=2.5),
    "quantile": fbp.Quantile(0.3),
}
ELEMENTWISE = {**REGRESSION, "sigmoid": fbp.SigmoidCrossEntropy()}
SOFTMAX = {
    "softmax": fbp.SoftmaxCrossEntropy(),
    "softmax_smooth": fbp.SoftmaxCrossEntropy(label_smoothing=0.1),
    "softmax_ignore": fbp.SoftmaxCrossEntropy(ignore=-1),
    "softmax_smooth_ignore": fbp.SoftmaxCrossEntropy(label_smoothing=0.3, ignore=2),
}
LOSSES = {**ELEMENTWISE, **SOFTMAX}
SHAPES = [(7, 5), (5, 5), (1, 1), (7, 1), (2, 3, 5)]

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_elementwise = pytest.mark.parametrize("loss", ELEMENTWISE.values(), ids=ELEMENTWISE)
each_softmax = pytest.mark.parametrize("loss", SOFTMAX.values(), ids=SOFTMAX)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def drawn(loss: Any, shape: tuple[int, ...], seed: int, target: str = "default") -> Any:
    """y and target for a loss; where it ignores a label, some are that."""
    rng = np.random.default_rng(seed)
    y = jnp.asarray(2 * rng.normal(size=shape))
    if isinstance(loss, fbp.SoftmaxCrossEntropy) and target != "soft":
        t = rng.integers(shape[-1], size=shape[:-1])
        if loss.ignore is not None:
            t = np.where(rng.random(t.shape) < 0.3, loss.ignore, t)
        return y, jnp.asarray(t)
    if isinstance(loss, fbp.SoftmaxCrossEntropy | fbp.SigmoidCrossEntropy):
        return y, jnp.asarray(rng.random(shape))
    return y, jnp.asarray(2 * rng.normal(size=shape))


@functools.cache
def compiled(loss: fbp.Loss) -> Any:
    return jax.jit(lambda y, target: loss.value_and_grad((), y, target))


@functools.cache
def beside_autodiff(loss: fbp.Loss) -> Any:
    reference = jax.grad(lambda y, target: loss.value((), y, target))
    return jax.jit(lambda y, t: (loss.value_and_grad((), y, t), reference(y, t)))


def agrees(loss: fbp.Loss, y: Any, target: Any) -> Any:
    (value, dparams, dy), reference = beside_autodiff(loss)(y, target)
    assert dparams == ()
    assert value.shape == ()
    assert (dy.shape, dy.dtype) == (y.shape, y.dtype)
    assert_close({"dy": dy}, {"dy": reference}, ROUNDING)
    return value, dy


# Independent formulas, as in a textbook, in NumPy: the loss of every element or row.


def plain(loss: Any, y: Any, t: Any) -> np.ndarray:
    y, t = np.asarray(y), np.asarray(t)
    if isinstance(loss, fbp.MeanSquaredError):
        return (y - t) ** 2
    if isinstance(loss, fbp.MeanAbsoluteError):
        return np.abs(y - t)
    if isinstance(loss, fbp.Huber):
        e = np.abs(y - t)
        return np.where(e <= loss.delta, e**2 / 2, loss.delta * (e - loss.delta / 2))
    if isinstance(loss, fbp.Quantile):
        return np.where(t > y, loss.q * (t - y), (1 - loss.q) * (y - t))
    if isinstance(loss, fbp.SigmoidCrossEntropy):
        s = 1 / (1 + np.exp(-y))
        return -t * np.log(s) - (1 - t) * np.log(1 - s)
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    q = np.eye(y.shape[-1])[np.clip(t, 0, y.shape[-1] - 1)] if t.dtype.kind == "i" else t
    q = (1 - loss.label_smoothing) * q + loss.label_smoothing / y.shape[-1]
    return -(q * np.log(p)).sum(-1)


def plain_mean(loss: Any, y: Any, t: Any, weight: Any = None) -> float:
    losses = plain(loss, y, t)
    w = np.ones(losses.shape) if weight is None else np.asarray(weight, np.float64)
    w = np.broadcast_to(w.reshape(w.shape + (1,) * (losses.ndim - w.ndim)), losses.shape)
    if getattr(loss, "ignore", None) is not None and np.asarray(t).dtype.kind == "i":
        w = w * (np.asarray(t) != loss.ignore)
    return float((w * losses).sum() / w.sum()) if w.sum() else 0.0


@each_shape
@each_loss
def test_value_and_gradient(loss: fbp.Loss, shape: tuple[int, ...], x64: None) -> None:
    for seed in range(3):
        y, target = drawn(loss, shape, seed)
        value, _ = agrees(loss, y, target)
        np.testing.assert_allclose(value, plain_mean(loss, y, target), rtol=FORMULA, atol=FORMULA)


@pytest.mark.parametrize("shape", [(7, 5), (3, 3, 3)], ids=str)
@each_softmax
def test_distributions_that_do_not_sum_to_one(loss: Any, shape: Any, x64: None) -> None:
    y, target = drawn(loss, shape, 0, "soft")
    value, _ = agrees(loss, y, target)
    np.testing.assert_allclose(value, plain_mean(loss, y, target), rtol=FORMULA)


@pytest.mark.parametrize("shape", [(), (1,), (7,)], ids=str)
@each_elementwise
def test_any_rank(loss: fbp.Loss, shape: tuple[int, ...], x64: None) -> None:
    y, target = drawn(loss, shape, 0)
    value, _ = agrees(loss, y, target)
    np.testing.assert_allclose(value, plain_mean(loss, y, target), rtol=FORMULA)


@each_softmax
def test_one_row_of_logits(loss: Any, x64: None) -> None:
    y, target = jnp.asarray([0.5, -1.0, 2.0, 0.1]), jnp.asarray(1)
    value, _ = agrees(loss, y, target)
    np.testing.assert_allclose(value, plain_mean(loss, y, target), rtol=FORMULA)


def test_optax_agrees(x64: None) -> None:
    y, t = drawn(fbp.MeanSquaredError(), (7, 5), 0)
    _, probability = drawn(fbp.SigmoidCrossEntropy(), (7, 5), 0)
    _, label = drawn(fbp.SoftmaxCrossEntropy(), (7, 5), 0)
    q = jax.nn.softmax(t)

    def of_smooth_labels(y: Any, label: Any) -> Any:
        smooth = optax.smooth_labels(jax.nn.one_hot(label, 5), 0.1)
        return optax.softmax_cross_entropy(y, smooth)

    pairs = {
        "mse": (fbp.MeanSquaredError(), t, optax.squared_error),
        "mae": (fbp.MeanAbsoluteError(), t, lambda y, t: jnp.abs(y - t)),
        "huber": (fbp.Huber(1.5), t, functools.partial(optax.huber_loss, delta=1.5)),
        "sigmoid": (fbp.SigmoidCrossEntropy(), probability, optax.sigmoid_binary_cross_entropy),
        "labels": (
            fbp.SoftmaxCrossEntropy(),
            label,
            optax.softmax_cross_entropy_with_integer_labels,
        ),
        "soft": (fbp.SoftmaxCrossEntropy(), q, optax.softmax_cross_entropy),
        "smooth": (fbp.SoftmaxCrossEntropy(label_smoothing=0.1), label, of_smooth_labels),
    }
    for name, (loss, target, theirs) in pairs.items():
        got, losses = jax.jit(loss.value)((), y, target), jax.jit(theirs)(y, target)
        np.testing.assert_allclose(got, np.mean(losses), rtol=FORMULA, err_msg=name)


# Weights, ignored labels.


@pytest.mark.parametrize("axes", [1, 2])
@each_loss
def test_weights(loss: fbp.Loss, axes: int, x64: None) -> None:
    y, target = drawn(loss, (5, 3, 4), 0)
    rng = np.random.default_rng(1)
    weight = rng.random(target.shape[:axes])
    weight[rng.random(weight.shape) < 0.3] = 0
    weight = jnp.asarray(weight)
    value, dy = agrees(loss, y, Weighted(target, weight))
    np.testing.assert_allclose(value, plain_mean(loss, y, target, weight), rtol=FORMULA)
    np.testing.assert_array_equal(np.asarray(dy)[np.asarray(weight) == 0], 0)


@each_loss
def test_equal_weights_are_no_weights(loss: fbp.Loss, x64: None) -> None:
    y, target = drawn(loss, (5, 3, 4), 0)
    want, _, dy_want = compiled(loss)(y, target)
    for weight in (jnp.full((5,), 3.0), jnp.ones((5,), bool)):
        value, _, dy = compiled(loss)(y, Weighted(target, weight))
        np.testing.assert_allclose(value, want, rtol=FORMULA)
        assert_close(dy, dy_want, ROUNDING)


@each_loss
def test_nothing_that_counts_is_a_loss_of_zero(loss: fbp.Loss) -> None:
    y, target = drawn(loss, (5, 4), 0)
    value, _, dy = compiled(loss)(y, Weighted(target, jnp.zeros(5)))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


def test_ignored_labels_do_not_count(x64: None) -> None:
    loss = fbp.SoftmaxCrossEntropy(label_smoothing=0.1, ignore=-1)
    y, _ = drawn(loss, (5, 4), 0)
    target = jnp.asarray([2, -1, 0, -1, 3])
    counted = jnp.asarray([0, 2, 4])
    value, dy = agrees(loss, y, target)
    plain_loss = fbp.SoftmaxCrossEntropy(label_smoothing=0.1)
    want, _, dy_want = compiled(plain_loss)(y[counted], target[counted])
    np.testing.assert_allclose(value, want, rtol=FORMULA)
    assert_close(dy[counted], dy_want, ROUNDING)
    np.testing.assert_array_equal(dy[jnp.asarray([1, 3])], 0)
    np.testing.assert_array_equal(compiled(loss)(y, jnp.full((5,), -1))[0], 0)


@each_loss
def test_what_does_not_count_does_not_leak(loss: fbp.Loss) -> None:
    y, target = drawn(loss, (5, 4), 0)
    weight = jnp.asarray([1.0, 0, 2, 0, 1])
    want, _, dy_want = compiled(loss)(y, Weighted(target, weight))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        value, _, dy = compiled(loss)(y.at[1].set(bad), Weighted(target, weight))
        assert value == want
        np.testing.assert_array_equal(dy, dy_want)
        if jnp.issubdtype(target.dtype, jnp.floating):
            value, _, dy = compiled(loss)(y, Weighted(target.at[3].set(bad), weight))
            assert value == want
            np.testing.assert_array_equal(dy, dy_want)
    if getattr(loss, "ignore", None) is not None:
        target = target.at[1].set(loss.ignore)
        want, _, dy_want = compiled(loss)(y, target)
        value, _, dy = compiled(loss)(y.at[1].set(jnp.nan), target)
        assert value == want
        np.testing.assert_array_equal(dy, dy_want)


ONE_OF_EACH = ["mse", "sigmoid", "softmax_smooth_ignore"]


@pytest.mark.parametrize("kind", ["bare", "rows", "elements"])
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, id=name, marks=() if name in ONE_OF_EACH else pytest.mark.slow)
        for name, loss in LOSSES.items()
    ],
)
def test_weight_is_the_share_of_a_part(loss: fbp.Loss, kind: str, x64: None) -> None:
    """The whole is the sum of its parts, each by its share: what `Microbatch` relies on."""
    y, target = drawn(loss, (7, 3, 4), 0)
    rng = np.random.default_rng(2)
    if kind != "bare":
        shape = target.shape if kind == "elements" else (7,)
        target = Weighted(target, jnp.asarray(rng.random(shape)))
    whole, _, dy_whole = compiled(loss)(y, target)
    shares, dys = 0.0, []
    for part_y, part_target in chunks((y, target), 3):
        share = loss.weight(part_target) / loss.weight(target)
        value, _, dy = compiled(loss)(part_y, part_target)
        shares += share * value
        dys.append(share * dy)
    np.testing.assert_allclose(shares, whole, rtol=FORMULA)
    assert_close(jnp.concatenate(dys), dy_whole, ROUNDING)


# Trees of arrays.


def tree_of(loss: Any, seed: int) -> Any:
    """y and target as matching trees."""
    (a, t), (b, u), (c, v) = (
        drawn(loss, shape, seed + i) for i, shape in enumerate([(5, 3), (5,), (5, 2, 2)])
    )
    return {"a": a, "b": (b, c)}, {"a": t, "b": (u, v)}


def rows_of(tree: Any) -> Any:
    """A tree as one array, each example's elements in a row."""
    return jnp.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(tree)], axis=1)


@each_elementwise
def test_a_tree_is_one_mean_over_all_elements(loss: fbp.Loss, x64: None) -> None:
    y, target = tree_of(loss, 0)
    weight = jnp.asarray(np.random.default_rng(1).random(5))
    for w in (None, weight, weight * 0):
        whole = (lambda t, w=w: t) if w is None else (lambda t, w=w: Weighted(t, w))
        value, _, dy = compiled(loss)(y, whole(target))
        want, _, dwant = compiled(loss)(rows_of(y), whole(rows_of(target)))
        np.testing.assert_allclose(value, want, rtol=FORMULA)
        assert jax.tree.structure(dy) == jax.tree.structure(y)
        assert_close({"dy": rows_of(dy)}, {"dy": dwant}, ROUNDING)


@pytest.mark.parametrize("weighted", [False, True])
@each_elementwise
def test_uneven_parts_of_trees_add_up(loss: fbp.Loss, weighted: bool, x64: None) -> None:
    y, target = tree_of(loss, 0)
    if weighted:
        target = Weighted(target, jnp.asarray(np.random.default_rng(2).random(5)))
    loss_cases.adds_up(loss, (), y, target, [1, 3])


def test_trees_of_several_dtypes(x64: None) -> None:
    y = {"a": jnp.ones((5, 3), jnp.bfloat16), "b": jnp.ones((5,), jnp.float64)}
    target = {"a": jnp.zeros((5, 3)), "b": jnp.zeros(5)}
    value, _, dy = fbp.MeanSquaredError().value_and_grad((), y, target)
    # Shares of float32 in a sum of 20.
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    assert {name: d.dtype for name, d in dy.items()} == {"a": jnp.bfloat16, "b": jnp.float64}


def test_trees_that_do_not_match_are_refused() -> None:
    loss, y = fbp.MeanSquaredError(), {"a": jnp.ones((5, 3)), "b": jnp.ones(5)}
    name = "MeanSquaredError"
    message = rf"^{name}: expected target to be a tree like y, a dict of a, b, got a dict of a$"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, {"a": jnp.ones((5, 3))})
    message = rf"^{name}: expected target\['b'\] to have the shape of y\['b'\], \(5,\), got shape"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, {**y, "b": jnp.ones((5, 1))})
    with pytest.raises(TypeError, match=rf"^{name}: expected y\['b'\] to be a float array, got in"):
        loss.value((), {**y, "b": jnp.ones(5, int)}, y)
    with pytest.raises(
        ValueError, match=rf"^{name}: expected y to be an array or a tree of arrays"
    ):
        loss.value((), (), ())
    with pytest.raises(
        ValueError, match=rf"^{name}.weight: expected a target whose arrays have ex"
    ):
        loss.weight({**y, "b": jnp.ones(4)})


# Targets that are refused.


@each_elementwise
def test_a_target_of_another_shape_is_refused(loss: fbp.Loss) -> None:
    name = type(loss).__name__
    y = jnp.ones((5, 1))
    for target in (jnp.ones(5), jnp.ones(()), jnp.ones((1, 5)), 1.0):
        shape = str(np.shape(target)).replace("(", r"\(").replace(")", r"\)")
        message = rf"^{name}: expected target to have the shape of y, \(5, 1\), got shape {shape}$"
        with pytest.raises(ValueError, match=message):
            loss.value((), y, target)
    with pytest.raises(TypeError, match=rf"^{name}: expected y to be a float array, got int32$"):
        loss.value((), jnp.ones((5,), jnp.int32), jnp.ones(5))
    message = rf"^{name}: expected weight to have the first axes of \(5, 1\), got shape \(1,\)$"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, Weighted(y, jnp.ones(1)))


def test_softmax_refuses_wrong_shapes() -> None:
    loss, y = fbp.SoftmaxCrossEntropy(), jnp.ones((5, 3))
    name = "SoftmaxCrossEntropy"
    message = rf"^{name}: expected integer labels of shape \(5,\), got \(5, 1\)$"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, jnp.zeros((5, 1), int))
    message = rf"^{name}: expected a float distribution of shape \(5, 3\), got "
    for shape in (5,), (5, 1):
        got = rf"{re.escape(str(shape))}: make the labels integers, of shape \(5,\)$"
        with pytest.raises(ValueError, match=message + got):
            loss.value((), y, jnp.zeros(shape))
    with pytest.raises(ValueError, match=message + r"\(5, 2\)$"):
        loss.value((), y, jnp.zeros((5, 2)))
    for empty in (jnp.ones(()), jnp.ones((5, 0))):
        with pytest.raises(ValueError, match=rf"^{name}: expected y \(..., C\), got shape \("):
            loss.value((), empty, jnp.zeros((), int))
    with pytest.raises(TypeError, match=rf"^{name}: expected y to be a float array, got int32$"):
        loss.value((), jnp.ones((5, 3), jnp.int32), jnp.zeros(5, int))
    message = rf"^{name}: expected weight to have the first axes of \(5,\), got shape \(4,\)$"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, Weighted(jnp.zeros(5, int), jnp.ones(4)))


@pytest.mark.parametrize("bad", [3, -1, -100, 1000])
def test_a_label_out_of_range(bad: int) -> None:
    loss, y, target = fbp.SoftmaxCrossEntropy(), jnp.ones((2, 3)), jnp.asarray([0, bad])
    message = rf"^SoftmaxCrossEntropy: expected labels in 0\.\.2, got {bad}$"
    with pytest.raises(ValueError, match=message):
        loss.value((), y, target)
    value, _, dy = jax.jit(loss.value_and_grad)((), y, target)
    assert jnp.isnan(value)
    assert jnp.isnan(dy[1]).all()
    if bad != -1:
        with pytest.raises(ValueError, match=rf"expected labels in 0\.\.2 or -1, got {bad}$"):
            fbp.SoftmaxCrossEntropy(ignore=-1).value((), y, target)


def test_wrong_settings_are_refused() -> None:
    for smoothing in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^SoftmaxCrossEntropy: expected label_smoothing in"):
            fbp.SoftmaxCrossEntropy(label_smoothing=smoothing)
    for delta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^Huber: expected delta to be positive, got "):
            fbp.Huber(delta)
    for q in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^Quantile: expected q between 0 and 1, got "):
            fbp.Quantile(q)


@pytest.mark.parametrize("loss", REGRESSION.values(), ids=REGRESSION)
def test_integer_targets_are_numbers(loss: fbp.Loss) -> None:
    y = jnp.asarray([0.5, -1.5, 2.5])
    integers = jnp.asarray([1, -2, 300])
    value, _, dy = loss.value_and_grad((), y, integers)
    want, _, dy_want = loss.value_and_grad((), y, integers.astype(jnp.float32))
    assert value == want
    np.testing.assert_array_equal(dy, dy_want)


def test_binary_targets_may_be_labels() -> None:
    loss, y = fbp.SigmoidCrossEntropy(), jnp.asarray([0.5, -1.5])
    want = loss.value((), y, jnp.asarray([1.0, 0.0]))
    assert loss.value((), y, jnp.asarray([1, 0])) == want
    assert loss.value((), y, jnp.asarray([True, False])) == want


@each_loss
def test_an_empty_batch(loss: fbp.Loss) -> None:
    y, target = drawn(loss, (5, 4), 0)
    value, _, dy = loss.value_and_grad((), y[:0], target[:0])
    assert value == 0
    assert dy.shape == (0, 4)
    assert loss.weight(target[:0]) == 0


def test_derivative_at_the_kink_of_the_absolute_error() -> None:
    y = jnp.asarray([0.0, -0.0, 3.0])
    value, _, dy = fbp.MeanAbsoluteError().value_and_grad((), y, jnp.asarray([0.0, 0.0, 3.0]))
    assert value == 0
    np.testing.assert_array_equal(dy, 0)


def test_derivative_at_the_kink_of_a_quantile() -> None:
    for q in (0.5, 0.9, 1e-6):
        y = jnp.asarray([0.0, -0.0, 3.0, jnp.nan])
        _, _, dy = fbp.Quantile(q).value_and_grad((), y, jnp.asarray([0.0, 0.0, 3.0, 0.0]))
        np.testing.assert_allclose(dy[:3], (0.5 - q) / 4, rtol=1e-6)
        assert jnp.isnan(dy[3])


def test_half_a_quantile_is_the_absolute_error(x64: None) -> None:
    y, target = drawn(fbp.MeanAbsoluteError(), (7, 5), 0)
    y = y.at[0].set(target[0])
    value, _, dy = fbp.MeanAbsoluteError().value_and_grad((), y, target)
    half, _, dhalf = fbp.Quantile(0.5).value_and_grad((), y, target)
    np.testing.assert_allclose(2 * half, value, rtol=FORMULA)
    np.testing.assert_allclose(2 * dhalf, dy, rtol=FORMULA)


def test_a_quantile_is_least_at_the_quantile(x64: None) -> None:
    """The gradient of a constant y changes sign where a share q of the targets lies below it."""
    target = jnp.asarray(np.random.default_rng(0).permutation(10) + 0.5)
    for q in (0.25, 0.75):
        slopes = [
            float(fbp.Quantile(q).value_and_grad((), jnp.full(10, float(v)), target)[2].sum())
            for v in range(11)
        ]
        np.testing.assert_allclose(slopes, np.arange(11) / 10 - q, atol=1e-15)


@each_loss
def test_bfloat16(loss: fbp.Loss, x64: None) -> None:
    """Everything but the gradient is at least float32; the gradient is rounded once."""
    y, target = drawn(loss, (7, 5), 0)
    y = y.astype(jnp.bfloat16)
    value, _, dy = compiled(loss)(y, target)
    want, _, dy_want = compiled(loss)(y.astype(jnp.float64), target)
    assert value.dtype == jnp.float32
    assert dy.dtype == jnp.bfloat16
    # 35 terms at a few roundings of float32; then half an ulp of bfloat16, 2^-8 of an element,
    # and what float32 loses where y - target, softmax - q, cancel: of the largest element.
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(value, want, rtol=40 * eps)
    dy, dy_want = np.asarray(dy, np.float64), np.asarray(dy_want)
    np.testing.assert_allclose(dy, dy_want, rtol=2**-8 + 8 * eps, atol=8 * eps * abs(dy_want).max())


@each_loss
def test_nan_in_what_counts_is_seen(loss: fbp.Loss) -> None:
    y, target = drawn(loss, (5, 4), 0)
    if jnp.issubdtype(target.dtype, jnp.integer):
        target = jnp.zeros_like(target)
    value, _, dy = compiled(loss)(y.at[1, 2].set(jnp.nan), target)
    assert jnp.isnan(value)
    assert jnp.isnan(dy[1, 2])
    assert jnp.isfinite(dy[jnp.asarray([0, 2, 3, 4])]).all()


# Logits where floats end, against 50 digits.


def exact_softmax(y: list[float], label: int) -> tuple[Any, list[Any]]:
    with mpmath.workdps(50):
        y_ = [mpmath.mpf(v) for v in y]
        top = max(y_)
        e = [mpmath.exp(v - top) for v in y_]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        value = mpmath.log(total) + (top - y_[label])
        return value, [p_i - (i == label) for i, p_i in enumerate(p)]


EXTREME = [
    [0.0, 88.0, -88.0],
    [1e4, -1e4, 0.0],
    [1e30, -1e30, 1e29],
    [-1e30, -1e30, -1e30],
    [1e4, 1e4 + 2**-8, 1e4 - 2**-8],
    [-1e4, -1e4 + 2**-8, -1e4 - 2**-8],
    [2.0**100, 2.0**100, 2.0**100 - 2.0**80],
    [0.0, -50.0, -100.0],
    [3.4e38, 0.0, 1.0],
    [-3.4e38, -3.4e38, -3.4e38],
    [0.0, -3.4e38, 1.0],
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("logits", EXTREME, ids=str)
def test_softmax_at_extreme_logits(logits: list[float], label: int, dtype: str, x64: None) -> None:
    y = jnp.asarray(logits, dtype)
    eps = float(jnp.finfo(dtype).eps)
    got, _, dy = compiled(fbp.SoftmaxCrossEntropy())(y, jnp.asarray(label))
    want, dy_want = exact_softmax([float(v) for v in y], label)
    # Each of a few roundings is relative, whatever the logits' size and however sure the answer is:
    # a difference of logits, a sum of positive numbers, its log1p, a quotient. What is below the
    # smallest normal number is flushed to 0.
    few, tiny = 8 * eps, float(jnp.finfo(dtype).tiny)
    np.testing.assert_allclose(float(got), float(want), rtol=few, atol=4 * tiny)
    wanted = [float(d) for d in dy_want]
    np.testing.assert_allclose(np.asarray(dy, float), wanted, rtol=few, atol=4 * tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("logit", [0.0, 1e-30, 1.0, 20.0, 88.0, 104.0, 745.0, 1e4, 1e30])
def test_sigmoid_at_extreme_logits(logit: float, target: float, dtype: str, x64: None) -> None:
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    for sign in (-1, 1):
        y = jnp.asarray([sign * logit], dtype)
        got, _, dy = compiled(fbp.SigmoidCrossEntropy())(y, jnp.asarray([target], dtype))
        with mpmath.workdps(400):
            v, t = mpmath.mpf(float(y[0])), mpmath.mpf(target)
            s = 1 / (1 + mpmath.exp(-v))
            top = max(v, mpmath.mpf(0))
            want = top - t * v + mpmath.log1p(mpmath.exp(-abs(v)))
            slope = s - t
        # max(y, 0) - t y is exact where t is 0 or 1; then the logarithm has a few eps of its own.
        # What is below the smallest normal number is flushed to 0.
        np.testing.assert_allclose(float(got), float(want), rtol=8 * eps, atol=tiny)
        # s - t cancels where s is near a t between 0 and 1: the error is that of s.
        off = 0 if target in (0, 1) else 4 * eps * target
        np.testing.assert_allclose(float(dy[0]), float(slope), rtol=8 * eps, atol=max(tiny, off))


def through(loss: Any, target: Any, params: Any = ()) -> Any:
    """The gradient of the sum over rows with respect to logits."""
    return lambda y: len(y) * jax.jit(loss.value_and_grad)(params, y, target)[2]


def of_contrastive(y: jax.Array) -> jax.Array:
    return len(y) * _find(y, jnp.full(len(y), 1 / len(y), y.dtype))[1]


NEARLY_RIGHT = {
    "labels": through(fbp.SoftmaxCrossEntropy(), jnp.arange(3)),
    "distributions": through(fbp.SoftmaxCrossEntropy(), jnp.eye(3)),
    "kl": through(fbp.SoftmaxKLDivergence(probabilities=True), jnp.eye(3)),
    "kl_of_logits": through(fbp.SoftmaxKLDivergence(), 1e4 * jnp.eye(3)),
    "unembed": through(fbp.UnembedCrossEntropy(3, 3), jnp.arange(3), {"w": jnp.eye(3)}),
    "contrastive": of_contrastive,
}


@pytest.mark.parametrize("name", NEARLY_RIGHT)
def test_a_row_that_is_nearly_right_keeps_its_digits(name: str) -> None:
    """Where p of the label is 1 - 1e-9, p - 1 has no digit in float32 and little in float64."""
    for gap in (0.0, 1.0, 5.0, 10.0, 16.0, 17.0, 20.0, 40.0, 80.0):
        y = jnp.asarray(gap * np.eye(3) + [[0, 0.5, 0.25], [-1, 0, 0.5], [0, 1, 0]], jnp.float32)
        got = np.asarray(NEARLY_RIGHT[name](y), float)
        for i, row in enumerate(np.asarray(y, float)):
            _, want = exact_softmax(row.tolist(), i)
            eps = float(jnp.finfo(jnp.float32).eps)
            np.testing.assert_allclose(got[i], [float(d) for d in want], rtol=8 * eps, atol=1e-37)


@pytest.mark.parametrize("gap", [0.0, 5.0, 20.0, 40.0])
def test_autodiff_of_a_nearly_right_row_keeps_its_digits_too(gap: float, x64: None) -> None:
    """It is what the rules are compared with."""
    loss = fbp.SoftmaxCrossEntropy()
    for row in ([gap, 0.0, 0.5], [gap, gap, 0.0]):
        auto = jax.grad(lambda y: loss.value((), y, jnp.asarray(0)))(jnp.asarray(row))
        _, want = exact_softmax(row, 0)
        np.testing.assert_allclose(auto, [float(d) for d in want], rtol=1e-14)


def test_classes_taken_out_at_minus_infinity() -> None:
    y = jnp.asarray([[0.0, -jnp.inf, 1.0], [-jnp.inf, -jnp.inf, 2.0]])
    value, _, dy = compiled(fbp.SoftmaxCrossEntropy())(y, jnp.asarray([2, 2]))
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(value, -np.log(p) / 2, rtol=1e-6)
    np.testing.assert_allclose(dy, [[(1 - p) / 2, 0, (p - 1) / 2], [0, 0, 0]], rtol=1e-6)
    # The label itself taken out: infinitely wrong, and the gradient is still p - q.
    value, _, dy = compiled(fbp.SoftmaxCrossEntropy())(y[:1], jnp.asarray([1]))
    assert value == jnp.inf
    np.testing.assert_allclose(dy, [[1 - p, -1, p]], rtol=1e-6)


@pytest.mark.parametrize("large", [1e4, 1e18])
@pytest.mark.parametrize("loss", REGRESSION.values(), ids=REGRESSION)
def test_regression_far_from_the_target(loss: Any, large: float) -> None:
    for sign in (-1, 1):
        y = jnp.asarray([sign * large])
        value, _, dy = loss.value_and_grad((), y, jnp.zeros(1))
        # A handful of roundings.
        np.testing.assert_allclose(value, plain_mean(loss, np.float64(y), np.zeros(1)), rtol=1e-6)
        delta = getattr(loss, "delta", 1.0)
        slope = 2 * large if isinstance(loss, fbp.MeanSquaredError) else delta
        if isinstance(loss, fbp.Quantile):
            slope = 1 - loss.q if sign > 0 else loss.q
        np.testing.assert_allclose(dy, [sign * slope], rtol=1e-6)


@each_loss
def test_losses_are_values(loss: Any) -> None:
    assert hash(loss) == hash(type(loss)(**vars(loss)))
    assert loss == type(loss)(**vars(loss))
    assert loss.init(jax.random.key(0)) == ()
    y, target = drawn(loss, (5, 4), 0)
    value, value_again = jax.jit(
        lambda y, t: (loss.value((), y, t), loss.value_and_grad((), y, t)[0])
    )(y, target)
    assert value == value_again
