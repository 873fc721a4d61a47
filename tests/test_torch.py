"""Activations and losses beside PyTorch, in float64."""

import importlib.util
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fbp

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]

# Two libraries' exp, erf and tanh, each good to some ulp of 2.2e-16 of the largest element.
ROUNDING = 1e-13

ACTIVATIONS = {
    "relu": (fbp.Relu(), lambda f: f.relu),
    "leaky_relu": (fbp.LeakyRelu(0.2), lambda f: lambda x: f.leaky_relu(x, 0.2)),
    "tanh": (fbp.Tanh(), lambda f: f.tanh),
    "sigmoid": (fbp.Sigmoid(), lambda f: f.sigmoid),
    # PyTorch's softplus is y = x beyond its threshold; at 50 that is so to the last bit.
    "softplus": (fbp.Softplus(), lambda f: lambda x: f.softplus(x, threshold=50)),
    "gelu_erf": (fbp.Gelu(tanh=False), lambda f: f.gelu),
    "gelu_tanh": (fbp.Gelu(), lambda f: lambda x: f.gelu(x, approximate="tanh")),
    "silu": (fbp.Silu(), lambda f: f.silu),
    "softmax": (fbp.Softmax(), lambda f: lambda x: f.softmax(x, -1)),
    "log_softmax": (fbp.LogSoftmax(), lambda f: lambda x: f.log_softmax(x, -1)),
}


def assert_close(got: Any, want: Any) -> None:
    want = want.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING * np.abs(want).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, x64: None) -> None:
    import torch

    layer, theirs = ACTIVATIONS[name]
    rng = np.random.default_rng(0)
    x, dy = 3 * rng.normal(size=(2, 7, 5))
    x[0, 0] = 0.0
    y, res = layer.forward((), jnp.asarray(x))
    _, dx = layer.backward((), jnp.asarray(x), res, jnp.asarray(dy))
    x_t = torch.tensor(x, requires_grad=True)
    y_t = theirs(torch.nn.functional)(x_t)
    y_t.backward(torch.tensor(dy))
    if name == "leaky_relu":
        # At the kink PyTorch takes the slope below, fbp and jax the slope above.
        dx = dx.at[0, 0].set(0.2 * dy[0, 0])
    assert_close(y, y_t)
    assert_close(dx, x_t.grad)


LABELS = np.asarray([0, 4, 2, -1, 1, -1, 3])
LOSSES = {
    "mse": (fbp.MeanSquaredError(), "mse_loss", "numbers", {}),
    "mae": (fbp.MeanAbsoluteError(), "l1_loss", "numbers", {}),
    "huber": (fbp.Huber(0.7), "huber_loss", "numbers", {"delta": 0.7}),
    "sigmoid": (
        fbp.SigmoidCrossEntropy(),
        "binary_cross_entropy_with_logits",
        "probabilities",
        {},
    ),
    "labels": (fbp.SoftmaxCrossEntropy(ignore=-1), "cross_entropy", "labels", {"ignore_index": -1}),
    "smooth": (
        fbp.SoftmaxCrossEntropy(label_smoothing=0.1, ignore=-1),
        "cross_entropy",
        "labels",
        {"ignore_index": -1, "label_smoothing": 0.1},
    ),
    "soft": (fbp.SoftmaxCrossEntropy(), "cross_entropy", "probabilities", {}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, x64: None) -> None:
    import torch

    loss, theirs, kind, options = LOSSES[name]
    rng = np.random.default_rng(0)
    y = 3 * rng.normal(size=(7, 5))
    target = {
        "numbers": rng.normal(size=(7, 5)),
        "probabilities": rng.random((7, 5)),
        "labels": LABELS,
    }[kind]
    if name == "mae":
        target[0] = y[0]
    value, _, dy = loss.value_and_grad((), jnp.asarray(y), jnp.asarray(target))
    y_t = torch.tensor(y, requires_grad=True)
    value_t = getattr(torch.nn.functional, theirs)(y_t, torch.tensor(target), **options)
    value_t.backward()
    assert_close(value, value_t)
    assert_close(dy, y_t.grad)


def test_dense(x64: None) -> None:
    import torch

    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=s) for s in ((2, 7, 3), (3, 5), (5,), (2, 7, 5)))
    params = {"w": jnp.asarray(w), "b": jnp.asarray(b)}
    y, res = fbp.Dense(3, 5).forward(params, jnp.asarray(x))
    dparams, dx = fbp.Dense(3, 5).backward(params, jnp.asarray(x), res, jnp.asarray(dy))
    x_t, w_t, b_t = (torch.tensor(a, requires_grad=True) for a in (x, w.T.copy(), b))
    y_t = torch.nn.functional.linear(x_t, w_t, b_t)
    y_t.backward(torch.tensor(dy))
    assert_close(y, y_t)
    assert_close(dx, x_t.grad)
    assert_close(dparams["w"], w_t.grad.T)
    assert_close(dparams["b"], b_t.grad)
