"""The tasks on tables: what they are, their networks, and the built-in ones."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fbp import models
from fbp._layer import Layer, Loss
from fbp.combinators import Serial, Sum
from fbp.layers import Dense, Relu, Unflatten
from fbp.losses import MeanSquaredError, SoftmaxCrossEntropy
from fbp.train._members import MeanOfMembers, Members
from fbp.train._recipe import Recipe
from fbp.train.tables._decide import split_rows
from fbp.train.tables._encoding import Column, Encoding
from fbp.train.tables._table import InputError, Table

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, with the network and the default settings to learn them.

    Attributes:
      name: of the task; runs are named after it.
      encoding: how its table was encoded as arrays.
      train: x and target to train on.
      held_out: x and target that nothing is chosen by, or None if there are too few rows.
      members: as how many networks, whose mean is the answer; each begins as a linear model, and
        is measured by rows it leaves out (see `folds`). None is one network that has all rows.
      validation: x and target that choose the best weights and when to stop; they are of neither
        of the others. None chooses by the training rows.
      patience: ends a run after this many evaluations without a better one; None is never.
      hidden: widths of the hidden layers, or of a convnet's stages; None is a single neuron.
      image: (H, W, channels) of a row of x, for a convnet; None is a multi-layer perceptron.
      steps, batch, lr: updates, examples per update, learning rate.
      label_smoothing: of the loss, for classification.
      weight_decay: of AdamW; None is plain gradient descent at a constant rate.
      chunks: the least number of times a run computes its metrics after the start.
      said: lines to print on decisions made about the data.
    """

    name: str
    encoding: Encoding
    train: Arrays
    held_out: Arrays | None
    hidden: tuple[int, ...] | None
    steps: int
    batch: int
    lr: float
    label_smoothing: float = 0.0
    weight_decay: float | None = 1e-4
    chunks: int = 25
    image: tuple[int, int, int] | None = None
    said: tuple[str, ...] = ()
    members: int | None = None
    validation: Arrays | None = None
    patience: int | None = None

    def model_spec(self) -> dict[str, Any]:
        """The network, in JSON."""
        if self.hidden is None:
            return {"kind": "neuron"}
        sizes = [len(self.encoding.columns), *self.hidden, self.encoding.outputs]
        if self.image is not None:
            return {"kind": "convnet", "sizes": sizes, "image": list(self.image), "blocks": 1}
        spec = {"kind": "mlp", "sizes": sizes, "activation": "relu"}
        return spec if self.members is None else {**spec, "members": self.members}

    def recipe(self) -> Recipe:
        """AdamW with a rate that falls to 0 along a cosine; without weight decay, plain SGD."""
        if self.weight_decay is None:
            return Recipe("sgd", "constant")
        # The line has been shrunk by a penalty of its own.
        decay = "all" if self.members is None else "network"
        return Recipe(weight_decay=self.weight_decay, decay=decay)

    def loss(self) -> Loss:
        if self.encoding.kind == "regression":
            return MeanSquaredError()
        return SoftmaxCrossEntropy(label_smoothing=self.label_smoothing)


def build_model(spec: dict[str, Any], side_by_side: bool = False) -> Layer:
    """The network of a `model_spec`; its members answer as one, or `side_by_side` to be trained."""
    if not isinstance(spec, dict):
        raise InputError(f"expected a model that this version knows, got {spec!r}")
    if spec.get("kind") == "neuron":
        return models.neuron()
    if spec.get("kind") == "mlp" and spec.get("activation") == "relu":
        network = models.mlp(spec["sizes"], Relu())
        if "members" not in spec:
            return network
        line = Dense(spec["sizes"][0], spec["sizes"][-1])
        several = Members if side_by_side else MeanOfMembers
        return several(Sum(linear=line, network=network), int(spec["members"]))
    if spec.get("kind") == "convnet":
        (n_in, *widths, n_out), image = spec["sizes"], tuple(spec["image"])
        if math.prod(image) != n_in:
            raise InputError(f"expected an image of {n_in} numbers, got {image}")
        net = models.convnet(image[-1], n_out, widths, spec["blocks"])
        return Serial(image=Unflatten(image), convnet=net)
    raise InputError(f"expected a model that this version knows, got {spec}")


def digits() -> Task:
    """scikit-learn's 1,797 handwritten digits: 8x8 pixels with values from 0 to 16."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # All pixels share one scale: standardized separately, those that are nearly always 0 would
    # become very large where they are not.
    columns = tuple(Column(name, offset=8.0, scale=8.0) for name in data.feature_names)
    encoding = Encoding("classification", "digit", columns, tuple("0123456789"))
    table = Table("digits", dict(zip(data.feature_names, data.data.T, strict=True)))
    train, held_out = _split(encoding.encode(table), data.target.astype(np.int32))
    return Task(
        "digits",
        encoding,
        train,
        held_out,
        hidden=(128, 128),
        steps=2000,
        batch=64,
        lr=3e-3,
        label_smoothing=0.1,
        weight_decay=0.1,
    )


def convnet() -> Task:
    """The digits as images, for a small residual network."""
    return dataclasses.replace(
        digits(),
        name="convnet",
        hidden=(16, 32),
        image=(8, 8, 1),
        steps=1000,
        weight_decay=0.5,
    )


def neuron() -> Task:
    """The worked example: one neuron, one example, x = 2.1 and target 4."""
    example = np.array([[2.1]], np.float32), np.array([[4.0]], np.float32)
    encoding = Encoding("regression", "y", (Column("x"),))
    return Task(
        "neuron",
        encoding,
        train=example,
        held_out=None,
        hidden=None,
        steps=100,
        batch=1,
        lr=0.01,
        weight_decay=None,
        chunks=100,
    )


def curve() -> Task:
    """300 points of y = sin(2x), which a linear model cannot fit."""
    x = np.linspace(-3, 3, 300, dtype=np.float32)[:, None]
    train, held_out = _split(x, np.sin(2 * x))
    encoding = Encoding("regression", "y", (Column("x"),))
    return Task("curve", encoding, train, held_out, (64, 64), steps=2000, batch=64, lr=1e-2)


def spiral() -> Task:
    """400 points of two interleaved spirals, with a little noise."""
    rng = np.random.default_rng(0)
    turn = np.sqrt(rng.uniform(0.02, 1, (2, 200))) * 3 * np.pi
    arm = np.arange(2)[:, None]
    angle = turn + arm * np.pi
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], -1) / (3 * np.pi)
    points += rng.normal(scale=0.02, size=points.shape)
    x = points.reshape(-1, 2).astype(np.float32)
    train, held_out = _split(x, np.repeat(np.arange(2, dtype=np.int32), 200))
    encoding = Encoding("classification", "arm", (Column("x1"), Column("x2")), ("0", "1"))
    return Task("spiral", encoding, train, held_out, (64, 64), steps=2000, batch=64, lr=1e-2)


TASKS: dict[str, Callable[[], Task]] = {
    "digits": digits,
    "convnet": convnet,
    "neuron": neuron,
    "curve": curve,
    "spiral": spiral,
}


def _split(x: np.ndarray, target: np.ndarray) -> tuple[Arrays, Arrays]:
    train, held_out = split_rows(target.ravel())
    return (x[train], target[train]), (x[held_out], target[held_out])
