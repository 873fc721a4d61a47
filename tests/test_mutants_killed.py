"""What a planted bug has shown that the other tests do not see: mostly digits lost."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    ACTIVATIONS,
    Case,
    Noise,
    assert_close,
    cast,
    draw,
    normal_like,
    output,
    rule,
)
from test_losses import LOSSES, agrees, drawn, plain_mean

import fbp
from fbp import Weighted

# Half an ulp of bfloat16: what rounding a number once may cost, in units of the number.
HALF_ULP = 2.0**-8
EPS = float(jnp.finfo(jnp.float32).eps)

# Those that compute more than one product.
WIDENING = {name: layer for name, layer in ACTIVATIONS.items() if "relu" not in name}
WIDENING |= {"softmax": fbp.Softmax(), "log_softmax": fbp.LogSoftmax()}
# From the kink into the tails, where 1 - y^2, 1 - s and what a softmax leaves are small.
POINTS = [-9.0, -5.5, -3.25, -1.5, -0.75, -0.1, 0.1, 0.75, 1.5, 3.25, 5.5, 9.0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", WIDENING)
def test_narrow_gradients_are_rounded_once(name: str, dtype: Any, x64: None) -> None:
    """Elementwise, and not in units of the largest: all else is computed in float32."""
    layer, rng = WIDENING[name], np.random.default_rng(0)
    x = jnp.asarray(np.asarray(POINTS) * (1 + rng.random((5, len(POINTS))) / 8), dtype)
    dy = jnp.asarray(rng.normal(size=x.shape), dtype)
    backward = jax.jit(lambda x, dy: layer.backward((), x, (), dy)[1])
    dx = backward(x, dy)
    want = np.asarray(backward(np.asarray(x, np.float64), np.asarray(dy, np.float64)))
    half = float(jnp.finfo(dtype).eps) / 2
    # Then what float32 loses where terms of the size of dy cancel, and what float16 cannot hold.
    lost = 8 * EPS * float(abs(np.asarray(dy)).max()) + float(jnp.finfo(dtype).smallest_subnormal)
    assert dx.dtype == dtype
    np.testing.assert_allclose(np.asarray(dx, np.float64), want, rtol=half + 8 * EPS, atol=lost)


def test_products_are_not_rounded_before_they_are_summed() -> None:
    """1.5 * 1.5 and 1.125 * 2 are alike; nearby products of 16 bits cancel to their last ones."""
    layer, w = fbp.Scale(dtype=jnp.bfloat16), jnp.ones((), jnp.bfloat16)
    x = jnp.asarray([1 + 2**-7, 1.0], jnp.bfloat16)
    dy = jnp.asarray([1 + 2**-7, -1 - 2**-6], jnp.bfloat16)
    dw, _ = layer.backward(w, x, (), dy)
    # (1 + e)^2 - (1 + 2e) = e^2
    assert float(dw) == 2.0**-14


# What has sums in its rule: for each a layer and x. Dtypes of the params are in their names.
SUMMING: dict[str, tuple[fbp.Layer, Any]] = {
    "layer_norm": (fbp.LayerNorm(6), (7, 6)),
    "rms_norm": (fbp.RMSNorm(6), (7, 6)),
    "group_norm": (fbp.GroupNorm(2, 6), (2, 2, 3, 6)),
    "group_norm/float32": (fbp.GroupNorm(2, 6), (2, 2, 3, 6)),
    "batch_norm": (fbp.BatchNorm(5), (7, 5)),
    "batch_norm/float32": (fbp.BatchNorm(5), (7, 5)),
    "fixed_batch_norm": (fbp.FixedBatchNorm(5), (7, 5)),
    "fixed_batch_norm/float32": (fbp.FixedBatchNorm(5), (7, 5)),
    "swiglu": (fbp.SwiGLU(), (2, 7, 10)),
    "rope": (fbp.Rope(), lambda rng: (*rng.normal(size=(3, 7, 2, 4)),)),
    "avg_pool": (fbp.AvgPool2D(3, 1), (5, 5, 3)),
}


@pytest.mark.parametrize("name", SUMMING)
def test_narrow_gradients_of_sums_are_rounded_once(name: str, x64: None) -> None:
    """To their own dtypes."""
    layer, shape = SUMMING[name]
    dtype = jnp.float32 if name.endswith("float32") else jnp.bfloat16
    params, x = draw(Case(name, layer, shape), 0, dtype, jnp.bfloat16)
    y = output(layer, params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(y)} == {jnp.dtype("bfloat16")}
    dy = normal_like(1, y)
    got = rule(layer, params, x, dy)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, (params, x))
    wide = jax.jit(functools.partial(rule, layer))(*cast((params, x, dy), jnp.float64))
    for leaf, want in zip(jax.tree.leaves(got), jax.tree.leaves(wide), strict=True):
        half = float(jnp.finfo(leaf.dtype).eps) / 2
        # Sums of at most 12 terms that cancel are off by float32's roundings of these.
        lost = 16 * EPS * float(abs(want).max())
        want = np.asarray(want)
        np.testing.assert_allclose(np.asarray(leaf, np.float64), want, rtol=half, atol=lost)


LSTM, GRU = (cell(3, 5, dtype=jnp.bfloat16) for cell in (fbp.LSTMCell, fbp.GRUCell))
# Layers with products, an x, and what they multiply it with.
PRODUCTS: dict[str, tuple[fbp.Layer, Any]] = {
    "dense": (fbp.Dense(3, 5), (7, 3)),
    "unembed": (fbp.Unembed(3, 5), (7, 3)),
    "lora": (fbp.LoRA(fbp.Dense(3, 5), 2), (7, 3)),
    "conv": (fbp.Conv2D(3, 5, (2, 4)), (2, 6, 7, 3)),
    "lstm_cell": (LSTM, lambda rng: (rng.normal(size=(7, 3)), fbp.LSTMState(*np.ones((2, 7, 5))))),
    "gru_cell": (GRU, lambda rng: (rng.normal(size=(7, 3)), np.ones((7, 5)))),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sums_over_a_batch_are_asked_for_in_float32(name: str) -> None:
    """Whatever a device adds bfloat16 products in by itself."""
    layer, shape = PRODUCTS[name]
    params, x = draw(Case(name, layer, shape), 0, jnp.bfloat16)
    y, res = jax.eval_shape(layer.forward, params, x)
    program = jax.make_jaxpr(layer.backward)(params, x, res, y)
    made = {
        eqn.outvars[0].aval.shape: eqn.outvars[0].aval.dtype
        for eqn in program.eqns
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    }
    matrices = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert {made[shape] for shape in matrices} == {jnp.dtype("float32")}


# Losses.


@pytest.mark.parametrize("wide", ["neither", "y", "w"])
def test_the_head_multiplies_in_few_digits_and_adds_in_float32(wide: str) -> None:
    loss = fbp.UnembedCrossEntropy(3, 7, chunk=4)
    y, w = (
        jnp.ones(shape, jnp.float32 if name == wide else jnp.bfloat16)
        for name, shape in {"y": (8, 3), "w": (7, 3)}.items()
    )
    labels = jnp.arange(8) % 7
    value, dparams, dy = jax.jit(loss.value_and_grad)({"w": w}, y, labels)
    assert (value.dtype, dparams["w"].dtype, dy.dtype) == (jnp.float32, w.dtype, y.dtype)
    program = jax.make_jaxpr(loss.value_and_grad)({"w": w}, y, labels)
    (scan,) = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    inner = scan.params["jaxpr"].eqns
    products = [eqn for eqn in inner if eqn.primitive.name == "dot_general"]
    asked = [eqn.outvars[0].aval.dtype for eqn in products]
    assert asked == [jnp.float32, jnp.result_type(y, w), jnp.float32]
    if wide == "neither":
        assert {a.aval.dtype for eqn in products for a in eqn.invars} == {jnp.dtype("bfloat16")}


WEIGHTS = {"positive": [1.0, -0.5, 2.0, 0.0, -0.25], "negative": [-1.0, -2.0, 0.5, 0.0, -1.5]}


@pytest.mark.parametrize("total", WEIGHTS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_weights_may_be_negative(loss: Any, total: str, x64: None) -> None:
    y, target = drawn(loss, (5, 3, 4), 0)
    weight = jnp.asarray(WEIGHTS[total])
    value, dy = agrees(loss, y, Weighted(target, weight))
    # Weights cancel to a fifth of their size, and so may the losses.
    np.testing.assert_allclose(value, plain_mean(loss, y, target, weight), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(dy[3], 0)
    whole = fbp.Objective(fbp.Scale(), loss)
    params = fbp.ObjectiveParams(jnp.asarray(0.5), ())
    batch = y, Weighted(target, weight)
    want, dwant = jax.jit(whole.value_and_grad)(params, batch)
    value, dparams = jax.jit(fbp.Microbatch(whole, 2).value_and_grad)(params, batch)
    np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-12)
    assert_close(dparams, dwant, 1e-12)


def test_targets_of_any_sign(x64: None) -> None:
    """No distribution, and still a function of y, with the gradient of its value."""
    y, target = drawn(fbp.MeanSquaredError(), (7, 5), 0)
    loss = fbp.SoftmaxCrossEntropy()
    value, _ = agrees(loss, y, target)
    np.testing.assert_allclose(value, plain_mean(loss, y, target), rtol=1e-12)


def test_a_row_of_negative_weight_needs_a_label_too() -> None:
    y, target = jnp.ones((2, 3)), jnp.asarray([0, 3])
    loss = fbp.SoftmaxCrossEntropy()
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.2, got 3"):
        loss.value((), y, Weighted(target, jnp.asarray([2.0, -1.0])))
    assert jnp.isfinite(loss.value((), y, Weighted(target, jnp.asarray([2.0, 0.0]))))


@pytest.mark.parametrize("loss", [fbp.MeanSquaredError(), fbp.SoftmaxCrossEntropy()])
def test_narrow_weights_are_added_in_float32(loss: Any) -> None:
    target = Weighted(jnp.zeros(1001, int), jnp.full(1001, 100.0, jnp.float16))
    assert float(loss.weight(target)) == 100_100


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16])
def test_labels_of_few_bits(dtype: Any) -> None:
    """More classes than the dtype has numbers, and an `ignore` that it cannot hold."""
    loss, rng = fbp.SoftmaxCrossEntropy(ignore=-100_000), np.random.default_rng(0)
    y, target = jnp.asarray(rng.normal(size=(4, 300))), jnp.asarray([0, 1, 100, 127])
    want, _, dy_want = loss.value_and_grad((), y, target)
    value, _, dy = loss.value_and_grad((), y, target.astype(dtype))
    assert value == want
    np.testing.assert_array_equal(dy, dy_want)
    assert loss.weight(target.astype(dtype)) == 4


# Batches taken in parts.

NOISY = fbp.Objective(fbp.Serial(fbp.Bias(), Noise()), fbp.MeanSquaredError())


def test_a_batch_of_one_part_is_the_whole() -> None:
    """With the noise of the whole."""
    params, key = NOISY.init(jax.random.key(0)), jax.random.key(1)
    batch = jnp.arange(6.0), jnp.zeros(6)
    value, dparams = fbp.Microbatch(NOISY, 6).value_and_grad(params, batch, key)
    want, dwant = NOISY.value_and_grad(params, batch, key)
    assert value == want
    assert_close(dparams, dwant, 0)
    earlier, (share, *last) = fbp.Microbatch(NOISY, 6).but_last(params, batch, key)
    assert (earlier, share) == (None, 1)
    assert last[1] is key
    assert_close(last[0], batch, 0)


def test_the_last_part_draws_noise_of_its_own() -> None:
    """Part i draws with fold_in(key, i), the shorter last one too."""
    params, key = NOISY.init(jax.random.key(0)), jax.random.key(1)
    x, target = jnp.arange(1.0, 6.0), jnp.zeros(5)
    got = fbp.Microbatch(NOISY, 2).value(params, (x, target), key)
    want = 0.0
    for i, examples in enumerate(([0, 2], [1, 3], [4])):
        part = x[jnp.asarray(examples)], target[jnp.asarray(examples)]
        want += len(examples) / 5 * NOISY.value(params, part, jax.random.fold_in(key, i))
    np.testing.assert_allclose(got, want, rtol=8 * EPS)


def test_weights_wider_than_the_parameters(x64: None) -> None:
    objective = fbp.Objective(fbp.Bias(), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    weight = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0], jnp.float64)
    batch = jnp.ones(5, jnp.float32), Weighted(jnp.zeros(5, jnp.float32), weight)
    value, dparams = fbp.Microbatch(objective, 2).value_and_grad(params, batch)
    assert (value.dtype, dparams.model.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose((value, dparams.model), (1, 2), rtol=8 * EPS)


def test_rows_of_very_different_logits_do_not_meet() -> None:
    """Each row is shifted by its own largest logit."""
    loss = fbp.SoftmaxCrossEntropy()
    y = jnp.asarray([[1e4, 1e4 - 1, 1e4 - 2], [-1e4, -1e4 - 1, -1e4 - 2]])
    value, _, dy = loss.value_and_grad((), y, jnp.asarray([1, 1]))
    want, _, row = loss.value_and_grad((), y[0] - 1e4, jnp.asarray(1))
    np.testing.assert_allclose(value, want, rtol=8 * EPS)
    np.testing.assert_allclose(dy, [row / 2] * 2, rtol=8 * EPS)


def test_the_mean_of_no_elements_is_zero() -> None:
    value, _, dy = fbp.MeanSquaredError().value_and_grad((), jnp.ones((0, 4)), jnp.ones((0, 4)))
    assert value == 0
    assert dy.shape == (0, 4)


def test_a_weight_that_does_not_fit_is_refused_by_the_name_of_its_loss() -> None:
    y = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"^MeanSquaredError: expected weight .* got shape \(2,\)"):
        fbp.MeanSquaredError().value((), y, fbp.Weighted(y, jnp.ones(2)))
