"""fbp's own rules, each with arguments to check it with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._layer import Layer, Loss
from fbp._microbatch import Microbatch
from fbp._objective import Objective
from fbp._tree import path_of
from fbp.combinators import Parallel, Remat, Residual, Serial, Stack, Sum
from fbp.layers import (
    AvgPool2D,
    BatchNorm,
    Bias,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    FixedBatchNorm,
    Flatten,
    Gelu,
    GlobalAvgPool2D,
    GroupNorm,
    LeakyRelu,
    LogSoftmax,
    MaxPool2D,
    Relu,
    Scale,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
    Unflatten,
    Upsample2D,
)
from fbp.losses import (
    Huber,
    LoadBalance,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    UnembedCrossEntropy,
    Weighted,
)
from fbp.verify.registry._own_sequences import sequence_layers
from fbp.verify.registry._own_trees import tree_layers, tree_losses
from fbp.verify.registry._registry import Rule

# Different primes, so that no two axes can be confused.
_ROWS, _IN, _OUT = 7, 3, 5


def own_rules() -> list[Rule]:
    """Every layer, loss and combinator of fbp, in the order of a network."""
    block = Serial(inner=Dense(_IN, _OUT), tanh=Tanh(), outer=Dense(_OUT, _IN))
    layers: dict[str, Layer] = {
        "Dense": Dense(_IN, _OUT),
        "Dense without bias": Dense(_IN, _OUT, bias=False),
        "Scale": Scale((_IN,)),
        "Bias": Bias((_IN,)),
        "Relu": Relu(),
        "LeakyRelu": LeakyRelu(),
        "Tanh": Tanh(),
        "Sigmoid": Sigmoid(),
        "Softplus": Softplus(),
        "Gelu": Gelu(),
        "Gelu by erf": Gelu(tanh=False),
        "Silu": Silu(),
        "Softmax": Softmax(),
        "LogSoftmax": LogSoftmax(),
        "BatchNorm": BatchNorm(_IN),
        "FixedBatchNorm": FixedBatchNorm(_IN),
        "Dropout": Dropout(0.5),
        "Unflatten": Unflatten((_IN, 1)),
        "Serial": block,
        "Residual": Residual(block),
        "Parallel": Parallel(left=block, right=Silu()),
        "Stack": Stack(Residual(Dense(_IN, _IN)), 2),
        "Remat": Remat(block),
        "Sum": Sum(skip=Dense(_IN, _IN), block=block),
    }
    of_images: dict[str, Layer] = {
        "Conv2D": Conv2D(_IN, 2, 3),
        "Conv2D, strided": Conv2D(_IN, 2, (2, 3), (2, 1), padding=1, bias=False),
        "Conv2D in groups": Conv2D(_IN, 2 * _IN, 2, groups=_IN, dilation=2),
        "ConvTranspose2D": ConvTranspose2D(_IN, 2, 3, 2),
        "Upsample2D": Upsample2D((2, 3)),
        "MaxPool2D": MaxPool2D(3, 2, 1),
        "AvgPool2D": AvgPool2D(3, 2, 1),
        "GlobalAvgPool2D": GlobalAvgPool2D(),
        "GroupNorm": GroupNorm(_IN, _IN),
        "Flatten": Flatten(),
    }
    numbers, shares, labels = _floats(1, _ROWS, _OUT), _distribution(), _labels()
    losses: dict[str, tuple[Loss, Any]] = {
        "MeanSquaredError": (MeanSquaredError(), numbers),
        "MeanAbsoluteError": (MeanAbsoluteError(), numbers),
        "Huber": (Huber(), numbers),
        "SigmoidCrossEntropy": (SigmoidCrossEntropy(), shares),
        "SoftmaxCrossEntropy": (SoftmaxCrossEntropy(), labels),
        "SoftmaxCrossEntropy of shares": (SoftmaxCrossEntropy(label_smoothing=0.1), shares),
        "SoftmaxCrossEntropy that ignores": (SoftmaxCrossEntropy(ignore=0), labels),
        "LoadBalance": (LoadBalance(2), np.arange(_ROWS, dtype=np.float32) % 3),
        "MeanSquaredError, weighted": (MeanSquaredError(), _weighted(numbers)),
        "SoftmaxCrossEntropy, weighted": (SoftmaxCrossEntropy(), _weighted(labels)),
    }
    objective = Objective(Serial(Dense(_IN, _OUT), Gelu()), SoftmaxCrossEntropy())
    batch = _floats(0, _ROWS, _IN), labels
    head = UnembedCrossEntropy(_IN, _OUT, chunk=3)
    return [
        *(_rule(name, layer, _of_layer(layer)) for name, layer in layers.items()),
        *(_rule(name, layer, _of_image(layer)) for name, layer in of_images.items()),
        *(_rule(name, layer, _given(layer, x)) for name, (layer, x) in sequence_layers().items()),
        *(_rule(name, layer, _given(layer, x)) for name, (layer, x) in tree_layers().items()),
        *(_rule(name, loss, _of_loss(loss, target)) for name, (loss, target) in losses.items()),
        *(_rule(name, loss, _given(loss, *args)) for name, (loss, *args) in tree_losses().items()),
        _rule("UnembedCrossEntropy", head, lambda: (drawn(head), _floats(0, _ROWS, _IN), labels)),
        _rule("Objective", objective, lambda: (drawn(objective), batch)),
        # The last part has one example and so counts for less than the others.
        _rule("Microbatch", Microbatch(objective, 2), lambda: (drawn(objective), batch)),
    ]


def drawn(owner: Any, seed: int = 0) -> Any:
    """Random parameters of a layer, a loss or an objective, also where `init` returns 0 or 1."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(owner.init, jax.random.key(0))

    def draw(path: Any, a: Any) -> Any:
        values = rng.normal(size=a.shape)
        # A variance is not negative.
        values = np.abs(values) if path_of(path[-1:]) == "var" else values
        return jnp.asarray(values, a.dtype)

    return jax.tree.map_with_path(draw, params)


def _rule(name: str, f: Any, make: Callable[[], tuple[Any, ...]]) -> Rule:
    return Rule(name, "fbp", f, make, {})


def _of_layer(layer: Layer) -> Callable[[], tuple[Any, ...]]:
    return lambda: (drawn(layer), _floats(0, _ROWS, _IN))


def _given(owner: Any, *args: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: (drawn(owner), *args)


def _of_image(layer: Layer) -> Callable[[], tuple[Any, ...]]:
    return lambda: (drawn(layer), _floats(0, 2, _ROWS, _OUT, _IN))


def _of_loss(loss: Loss, target: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: (drawn(loss), _floats(0, _ROWS, _OUT), target)


def _floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _distribution() -> np.ndarray:
    shares = np.exp(_floats(1, _ROWS, _OUT))
    return shares / shares.sum(-1, keepdims=True)


def _labels() -> np.ndarray:
    return np.arange(_ROWS, dtype=np.int32) % _OUT


def _weighted(target: np.ndarray) -> Weighted:
    weight = np.arange(len(target), dtype=np.float32) / 4
    return Weighted(target, jnp.asarray(weight))
