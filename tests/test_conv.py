"""Convolutions, pools, norms of batches, dropout: what is particular to each."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, auto, cast, rule

import fbp
from fbp._tree import nbytes

ROUNDING = 1e-12
ones = jnp.ones


def refused(make: Any, x: Any = None) -> str:
    """The message of the error, one line."""

    def forward() -> None:
        layer = make()
        layer.forward(layer.init(jax.random.key(0)), x)

    with pytest.raises((ValueError, TypeError)) as caught:
        forward()
    (line,) = str(caught.value).splitlines()
    return line


conv, maximum, average = fbp.Conv2D, fbp.MaxPool2D, fbp.AvgPool2D


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (
            lambda: conv(3, 5),
            ones((2, 8, 8, 4)),
            "Conv2D: expected last axis of x to be 3, got shape (2, 8, 8, 4)",
        ),
        (
            lambda: conv(3, 5),
            ones((8, 3)),
            "Conv2D: expected x to have axes (..., H, W, C), got shape (8, 3)",
        ),
        (
            lambda: conv(3, 5, 3, padding="VALID", dilation=2),
            ones((2, 4, 8, 3)),
            "Conv2D: expected a window of (5, 5) to fit into x and its padding, "
            "got shape (2, 4, 8, 3)",
        ),
        (
            lambda: conv(3, 5),
            ones((0, 8, 3)),
            "Conv2D: expected a window of (3, 3) to fit into x and its padding, "
            "got shape (0, 8, 3)",
        ),
        (lambda: conv(3, 5), ones((4, 4, 3), int), "Conv2D: expected x to be a float array, got"),
        (
            lambda: conv(3, 5, groups=2),
            None,
            "Conv2D: expected groups to divide n_in 3 and n_out 5, got 2",
        ),
        (
            lambda: conv(3, 5, 0),
            None,
            "Conv2D: expected size to be 1 or more, or two such numbers, got 0",
        ),
        (
            lambda: conv(3, 5, stride=(1, 2, 3)),  # type: ignore[arg-type]
            None,
            "Conv2D: expected stride to be 1 or more, or two such numbers, got (1, 2, 3)",
        ),
        (
            lambda: conv(3, 5, padding="FULL"),
            None,
            "Conv2D: expected padding to be SAME, VALID, 0 or more, or two pairs of such numbers, "
            "got 'FULL'",
        ),
        (
            lambda: conv(3, 5, padding=-1),
            None,
            "Conv2D: expected padding to be SAME, VALID, 0 or more, or two pairs of such numbers, "
            "got -1",
        ),
        (
            lambda: maximum(2),
            ones((5, 5)),
            "MaxPool2D: expected x to have axes (..., H, W, C), got shape (5, 5)",
        ),
        (
            lambda: average(4),
            ones((3, 5, 2)),
            "AvgPool2D: expected a window of (4, 4) to fit into x and its padding, "
            "got shape (3, 5, 2)",
        ),
        (
            lambda: maximum(2, padding=2),
            None,
            "MaxPool2D: expected padding smaller than the window (2, 2), got 2",
        ),
        (
            lambda: fbp.GlobalAvgPool2D(),
            ones((5, 5)),
            "GlobalAvgPool2D: expected x to have axes (..., H, W, C), got shape (5, 5)",
        ),
        (
            lambda: fbp.Flatten(),
            ones((5, 5)),
            "Flatten: expected x to have 3 axes or more, got shape (5, 5)",
        ),
        (lambda: fbp.Flatten(0), None, "Flatten: expected axes to be 1 or more, got 0"),
        (
            lambda: fbp.Unflatten((2, 3)),
            ones((5,)),
            "Unflatten: expected last axis of x to be 6, got shape (5,)",
        ),
        (
            lambda: fbp.GroupNorm(2, 4),
            ones((3, 4)),
            "GroupNorm: expected x to have axes (..., H, W, 4), got shape (3, 4)",
        ),
        (lambda: fbp.GroupNorm(2, 3), None, "GroupNorm: expected groups to divide n 3, got 2"),
        (
            lambda: fbp.BatchNorm(3),
            ones((3, 4)),
            "BatchNorm: expected last axis of x to be 3, got shape (3, 4)",
        ),
        (lambda: fbp.Dropout(1.0), None, "Dropout: expected rate to be in [0, 1), got 1.0"),
        (lambda: fbp.Dropout(-0.1), None, "Dropout: expected rate to be in [0, 1), got -0.1"),
        (lambda: fbp.Sum(), None, "Sum: expected at least one layer, got none"),
        (
            lambda: fbp.Sum(fbp.Dense(3, 5), fbp.Dense(3, 2)),
            ones((7, 3)),
            "Sum: expected its layers to give one shape and dtype, "
            "got float32[7, 5] -> float32[7, 2]",
        ),
        (
            lambda: fbp.models.convnet(3, 10, ()),
            None,
            "convnet: expected a width and a block or more, got () and 2",
        ),
    ],
)
def test_what_is_wrong_is_refused(make: Any, x: Any, message: str) -> None:
    assert refused(make, x).startswith(message)


# Pools.


def _max_pool_gradient(layer: fbp.MaxPool2D, x: Any, dy: Any) -> np.ndarray:
    x, dy = jnp.asarray(x)[..., None], jnp.asarray(dy)[..., None]
    _, res = jax.jit(layer.forward)((), x)
    return np.asarray(jax.jit(layer.backward)((), x, res, dy)[1])[..., 0]


def test_the_first_of_equal_maxima_has_the_gradient() -> None:
    dx = _max_pool_gradient(maximum(2), [[1.0, 3.0], [3.0, 3.0]], [[5.0]])
    np.testing.assert_array_equal(dx, [[0, 5], [0, 0]])
    # Where windows overlap, a pixel may be the first in one and not in the other.
    dx = _max_pool_gradient(maximum((1, 2), 1), [[2.0, 2.0, 2.0]], [[3.0, 5.0]])
    np.testing.assert_array_equal(dx, [[3, 5, 0]])
    dx = _max_pool_gradient(maximum((1, 2), 1), [[1.0, 2.0, 1.0]], [[3.0, 5.0]])
    np.testing.assert_array_equal(dx, [[0, 8, 0]])


def test_max_pool_is_differentiated_alike_by_autodiff_where_maxima_are_equal() -> None:
    x, dy = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[..., None], jnp.full((1, 1, 1), 5.0)
    layer = maximum(2)
    _, dx = jax.jit(functools.partial(rule, layer))((), x, dy)
    _, by_autodiff = jax.jit(functools.partial(auto, layer))((), x, dy)
    np.testing.assert_array_equal(dx, by_autodiff)


def test_max_pool_gives_to_the_first_maximum_of_each_window() -> None:
    """Beside loops over windows that are no squares, with equal maxima, a NaN and padding."""
    layer = maximum((2, 3), (1, 2), ((1, 0), (0, 1)))
    rng = np.random.default_rng(0)
    x, dy = rng.integers(-3, -1, (4, 6)).astype(np.float32), rng.normal(size=(4, 3))
    x[2, 3] = np.nan
    padded, want = np.full((5, 7), -np.inf, np.float32), np.zeros((5, 7))
    padded[1:, :6] = x
    y = np.empty_like(dy)
    for i, j in np.ndindex(dy.shape):
        window = padded[i : i + 2, 2 * j : 2 * j + 3]
        at = np.unravel_index(window.argmax(), window.shape)  # A NaN is the largest.
        y[i, j] = window[at]
        want[i : i + 2, 2 * j : 2 * j + 3][at] += dy[i, j]
    np.testing.assert_array_equal(layer.forward((), jnp.asarray(x)[..., None])[0][..., 0], y)
    dx = _max_pool_gradient(layer, x, dy.astype(np.float32))
    np.testing.assert_allclose(dx, want[1:, :6], rtol=1e-6, atol=1e-6)


def test_max_pool_adds_up_in_float32() -> None:
    """The pixel in the middle is the maximum of all four windows; in bfloat16 256 + 1 is 256."""
    x = jnp.zeros((3, 3, 1), jnp.bfloat16).at[1, 1].set(1)
    dy = jnp.asarray([[2, 1], [1, 256]], jnp.bfloat16)[..., None]
    _, dx = maximum(2, 1).backward((), x, (), dy)
    assert dx[1, 1, 0] == 260


def test_global_avg_pool_of_more_pixels_than_float16_can_count() -> None:
    x, dy = jnp.zeros((257, 256, 1), jnp.float16), jnp.ones(1, jnp.float16)
    _, dx = fbp.GlobalAvgPool2D().backward((), x, (), dy)
    np.testing.assert_array_equal(dx, np.float16(1 / x.size))


def test_padding_is_never_a_maximum() -> None:
    x = -ones((2, 2, 1))
    y, _ = maximum(3, 1, 1).forward((), x)
    np.testing.assert_array_equal(y, x)
    # Where all pixels are -inf, they are before the padding still only in their own places.
    dx = _max_pool_gradient(maximum(2, 2, "SAME"), [[-jnp.inf]], [[2.0]])
    np.testing.assert_array_equal(dx, [[2]])


def test_nan_is_the_largest() -> None:
    x = [[1.0, jnp.nan], [3.0, jnp.nan]]
    assert jnp.isnan(maximum(2).forward((), jnp.asarray(x)[..., None])[0]).all()
    np.testing.assert_array_equal(_max_pool_gradient(maximum(2), x, [[5.0]]), [[0, 5], [0, 0]])


def test_padding_counts_in_a_mean() -> None:
    y, _ = average(3, 1, 1).forward((), ones((2, 2, 1)))
    np.testing.assert_allclose(y, 4 / 9)


def test_unflatten_turns_back_what_flatten_does() -> None:
    x = jnp.arange(12.0).reshape(2, 1, 2, 3)
    y, _ = fbp.Flatten().forward((), x)
    assert y.shape == (2, 6)
    unflatten = fbp.Unflatten((1, 2, 3))
    np.testing.assert_array_equal(unflatten.forward((), y)[0], x)
    params, dx = unflatten.backward((), y, (), x)
    assert params == ()
    np.testing.assert_array_equal(dx, y)


# Dropout.


def test_dropout_keeps_the_mean_and_its_share() -> None:
    x, rate = ones(100_000), 0.3
    y, res = fbp.Dropout(rate).forward((), x, jax.random.key(0))
    # Five standard deviations of a share of 100,000, and of the mean it makes.
    deviation = 5 * (rate * (1 - rate) / x.size) ** 0.5
    assert abs(float((y == 0).mean()) - rate) < deviation
    assert abs(float(y.mean()) - 1) < deviation / (1 - rate)
    np.testing.assert_array_equal(jnp.unique(y), jnp.asarray([0, 1 / (1 - rate)], jnp.float32))
    assert nbytes(res) <= 16
    # The backward takes out what the forward has.
    np.testing.assert_array_equal(fbp.Dropout(rate).backward((), x, res, x)[1], y)


def test_dropout_without_a_key_or_a_rate_is_the_identity() -> None:
    x = jnp.linspace(-1, 1, 7)
    for layer, key in ((fbp.Dropout(0.5), None), (fbp.Dropout(0.0), jax.random.key(0))):
        y, res = layer.forward((), x, key)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(layer.backward((), x, res, 3 * x)[1], 3 * x)


def test_each_dropout_of_a_model_draws_its_own() -> None:
    x = ones(64)
    layer = fbp.Parallel(fbp.Dropout(0.5), fbp.Dropout(0.5))
    (a, b), _ = layer.forward(((), ()), x, jax.random.key(0))
    assert not np.array_equal(a, b)


# Norms.


def test_a_large_mean_costs_no_digits() -> None:
    """The mean of squares less the square of the mean would be 0 in float32, or negative."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(1e4 + rng.normal(size=(64, 5, 5, 4)), jnp.float32)
    exact = np.asarray(x, np.float64)
    for layer, axes in ((fbp.BatchNorm(4), (0, 1, 2)), (fbp.GroupNorm(4, 4), (1, 2))):
        y, _ = layer.forward(layer.init(jax.random.key(0)), x)
        mean = exact.mean(axes, keepdims=True)
        want = (exact - mean) / np.sqrt(((exact - mean) ** 2).mean(axes, keepdims=True) + 1e-5)
        # x itself has steps of 1e-3; its mean is rounded to one.
        np.testing.assert_allclose(y, want, atol=2e-3)


def test_norms_take_equal_numbers() -> None:
    for layer in (fbp.BatchNorm(2), fbp.GroupNorm(1, 2)):
        params, x = layer.init(jax.random.key(0)), jnp.full((3, 5, 5, 2), 7.0)
        y, res = layer.forward(params, x)
        np.testing.assert_array_equal(y, 0)
        _, dx = layer.backward(params, x, res, ones(x.shape))
        np.testing.assert_array_equal(dx, 0)


def _models_with_batch_norm() -> dict[str, fbp.Layer]:
    norm, dense = fbp.BatchNorm(3), fbp.Dense(3, 3)
    block = fbp.Serial(dense=dense, norm=norm, relu=fbp.Relu())
    return {
        "alone": norm,
        "serial": fbp.Serial(dense, norm, fbp.Tanh(), dense, norm),
        "residual": fbp.Residual(block),
        "stack": fbp.Stack(block, 3),
        "remat": fbp.Remat(block),
        "parallel": fbp.Parallel(a=norm, b=block),
        "sum": fbp.Sum(norm, block),
        "nested": fbp.Serial(dense, fbp.Stack(fbp.Residual(fbp.Remat(block)), 2), norm),
    }


MODELS = _models_with_batch_norm()


@pytest.mark.parametrize("name", MODELS)
def test_fixed_statistics_of_one_batch_give_the_batch_itself(name: str, x64: None) -> None:
    """m / (m - 1) is all that tells the fixed model from the one it was made of."""
    model, m = MODELS[name], 10_000
    params = jax.jit(model.init)(jax.random.key(0))
    x = cast(np.random.default_rng(0).normal(size=(m, 3)), jnp.float64)
    params = cast(params, jnp.float64)
    fixed, fixed_params = fbp.with_batch_statistics(model, params, [x])
    assert jax.tree.structure(fixed_params) == jax.tree.structure(fixed.init(jax.random.key(0)))
    want, got = model.forward(params, x)[0], fixed.forward(fixed_params, x)[0]
    # 5e-5 a norm, of at most four, each of which sees the difference of those before it too.
    assert_close(got, want, 20 / m)
    alone = jax.tree.map(lambda a: a[:1], fixed.forward(fixed_params, x)[0])
    assert_close(fixed.forward(fixed_params, x[:1])[0], alone, ROUNDING)


def test_statistics_are_averages_over_the_batches(x64: None) -> None:
    model = fbp.Serial(a=fbp.Dense(3, 2), b=fbp.BatchNorm(2), c=fbp.BatchNorm(2, eps=0.1))
    rng = np.random.default_rng(0)
    params = cast(model.init(jax.random.key(0)), jnp.float64)
    params = jax.tree.map(lambda a: a + rng.normal(size=a.shape), params)
    batches = [rng.normal(size=(4, 5, 3)) for _ in range(3)]
    fixed, got = fbp.with_batch_statistics(model, params, map(jnp.asarray, batches))
    assert fixed == fbp.Serial(
        a=fbp.Dense(3, 2), b=fbp.FixedBatchNorm(2), c=fbp.FixedBatchNorm(2, eps=0.1)
    )
    want: dict[str, list[Any]] = {"b": [], "c": []}
    for x in batches:
        y = x @ np.asarray(params["a"]["w"]) + np.asarray(params["a"]["b"])
        for name, eps in (("b", 1e-5), ("c", 0.1)):
            mean, var = y.mean((0, 1)), y.var((0, 1))
            want[name].append((mean, y.var((0, 1), ddof=1)))
            p = params[name]
            y = np.asarray(p["scale"]) * (y - mean) / np.sqrt(var + eps) + np.asarray(p["bias"])
    for name, seen in want.items():
        means, variances = np.mean(seen, 0)
        assert_close(got[name]["mean"], means, ROUNDING)
        assert_close(got[name]["var"], variances, ROUNDING)
        np.testing.assert_array_equal(got[name]["scale"], params[name]["scale"])
        np.testing.assert_array_equal(got[name]["bias"], params[name]["bias"])
    np.testing.assert_array_equal(got["a"]["w"], params["a"]["w"])


def test_statistics_need_a_batch() -> None:
    model = fbp.BatchNorm(3)
    with pytest.raises(ValueError, match=r"^with_batch_statistics: expected at least one batch"):
        fbp.with_batch_statistics(model, model.init(jax.random.key(0)), [])


def test_a_model_without_batch_norm_stays_as_it_is() -> None:
    model = fbp.Serial(fbp.Dense(3, 3), fbp.Tanh())
    params = model.init(jax.random.key(0))
    same, same_params = fbp.with_batch_statistics(model, params, [ones((2, 3))])
    assert same == model
    assert_close(same_params, params, 0)


def test_layers_are_replaced_wherever_they_are() -> None:
    block = fbp.Serial(dense=fbp.Dense(3, 3), act=fbp.Relu())
    model = fbp.Serial(fbp.Stack(fbp.Residual(block), 2), fbp.Sum(fbp.Remat(block), fbp.Relu()))
    tanh = fbp.map_layers(lambda x: fbp.Tanh() if isinstance(x, fbp.Relu) else x, model)
    block = fbp.Serial(dense=fbp.Dense(3, 3), act=fbp.Tanh())
    assert tanh == fbp.Serial(
        fbp.Stack(fbp.Residual(block), 2), fbp.Sum(fbp.Remat(block), fbp.Tanh())
    )
    assert fbp.map_layers(lambda x: x, model) == model
    with pytest.raises(TypeError, match="Residual: expected a Layer, got 'Dense'"):
        fbp.map_layers(lambda x: type(x).__name__, fbp.Residual(fbp.Dense(3, 3)))


# Beside PyTorch, in float64.

needs_torch = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]
# Two libraries' sums of at most 100 terms, each to some ulp of 2.2e-16.
ULPS = 1e-13


def _beside_torch(layer: fbp.Layer, module: Any, pairs: dict[str, str], *shape: int) -> None:
    """y and all gradients equal those of a module that takes (N, C, H, W)."""
    import torch

    rng = np.random.default_rng(0)
    params = cast(layer.init(jax.random.key(0)), jnp.float64)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)
    x = rng.normal(size=shape)
    module = module.double()
    theirs = dict(module.named_parameters())
    for ours, name in pairs.items():
        value = np.asarray(params[ours])
        theirs[name].data = torch.tensor(value.transpose(3, 2, 0, 1) if ours == "w" else value)
    x_t = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    y_t = module(x_t)
    dy = rng.normal(size=np.moveaxis(y_t.detach().numpy(), 1, -1).shape)
    y_t.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
    assert_close(
        layer.forward(params, jnp.asarray(x))[0], np.moveaxis(y_t.detach().numpy(), 1, -1), ULPS
    )
    dparams, dx = rule(layer, params, jnp.asarray(x), jnp.asarray(dy))
    assert_close(dx, np.moveaxis(x_t.grad.numpy(), 1, -1), ULPS)
    for ours, name in pairs.items():
        want = theirs[name].grad.numpy()
        assert_close(dparams[ours], want.transpose(2, 3, 1, 0) if ours == "w" else want, ULPS)


WB, SB = {"w": "weight", "b": "bias"}, {"scale": "weight", "bias": "bias"}
BESIDE = {
    "conv": (conv(3, 5, padding=1), lambda nn: nn.Conv2d(3, 5, 3, padding=1), WB),
    "conv/strided": (
        conv(3, 6, (3, 2), (2, 3), 2, 2, groups=3),
        lambda nn: nn.Conv2d(3, 6, (3, 2), (2, 3), 2, 2, groups=3),
        WB,
    ),
    "max_pool": (maximum(2), lambda nn: nn.MaxPool2d(2), {}),
    "max_pool/padded": (maximum(3, 2, 1), lambda nn: nn.MaxPool2d(3, 2, 1), {}),
    "avg_pool": (average((3, 2), 2, 1), lambda nn: nn.AvgPool2d((3, 2), 2, 1), {}),
    "group_norm": (fbp.GroupNorm(3, 3), lambda nn: nn.GroupNorm(3, 3), SB),
    "one_group": (fbp.GroupNorm(1, 3), lambda nn: nn.GroupNorm(1, 3), SB),
    "batch_norm": (fbp.BatchNorm(3), lambda nn: nn.BatchNorm2d(3), SB),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_torch) for name in BESIDE])
def test_beside_torch(name: str, x64: None) -> None:
    from torch import nn

    layer, module, pairs = BESIDE[name]
    _beside_torch(layer, module(nn), pairs, 2, 7, 9, 3)


@pytest.mark.parametrize("pixel", [pytest.param(i, marks=needs_torch) for i in range(4)])
def test_torch_takes_the_first_of_equal_maxima_too(pixel: int) -> None:
    import torch

    x = np.full(4, 2.0, np.float32)
    x[:pixel] = 1.0
    x_t = torch.tensor(x.reshape(1, 2, 2), requires_grad=True)
    torch.nn.functional.max_pool2d(x_t, 2).backward(torch.tensor([[[3.0]]]))
    dx = _max_pool_gradient(maximum(2), x.reshape(2, 2), [[3.0]])
    np.testing.assert_array_equal(dx, x_t.grad.numpy()[0])


@pytest.mark.slow
def test_a_convnet_with_batch_norm_is_fixed_after_training() -> None:
    norm = functools.partial(fbp.BatchNorm, eps=1e-3)
    model = fbp.models.convnet(1, 3, (4, 8), 1, norm)
    params = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (64, 6, 6, 1))
    fixed, fixed_params = fbp.with_batch_statistics(model, params, [x[:32], x[32:]])
    y = fixed.forward(fixed_params, x)[0]
    np.testing.assert_allclose(fixed.forward(fixed_params, x[:3])[0], y[:3], atol=1e-5)


@pytest.mark.slow
def test_a_run_on_images_is_loaded_again(tmp_path: Any, capsys: Any) -> None:
    from fbp.cli import main

    command = ["train", "convnet", "--steps", "2", "--no-check", "--runs", str(tmp_path)]
    assert main(command) == 0
    task = fbp.train.TASKS["convnet"]()
    model, params, encoding = fbp.train.load(fbp.train.Run(tmp_path / "convnet"))
    x, target = task.held_out
    y = model.forward(params, jnp.asarray(x))[0]
    assert y.shape == (len(target), encoding.outputs)
    last = fbp.train.Run(tmp_path / "convnet").metrics()[-1]
    assert abs(float((y.argmax(-1) == target).mean()) - last["val_accuracy"]) < 1e-6


def test_a_run_whose_image_is_not_its_input_is_refused() -> None:
    from fbp.train._tasks import build_model

    spec = {"kind": "convnet", "sizes": [64, 8, 10], "image": [8, 7, 1], "blocks": 1}
    with pytest.raises(fbp.train.InputError, match=r"^expected an image of 64 numbers, got \(8"):
        build_model(spec)
