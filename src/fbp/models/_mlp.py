"""One neuron, and a multi-layer perceptron."""

import itertools
from collections.abc import Sequence

import jax

from fbp._layer import Layer
from fbp.combinators import Serial
from fbp.layers import Bias, Dense, Relu, Scale

_HE_NORMAL = jax.nn.initializers.he_normal()


def neuron() -> Serial:
    """One neuron, y = w * x + b, which starts at w = 1, b = 0. Its params are {"w", "b"}."""
    return Serial(w=Scale(), b=Bias())


def mlp(sizes: Sequence[int], activation: Layer | None = Relu()) -> Serial:  # noqa: B008
    """Dense layers with an activation between them: sizes[0] inputs, sizes[-1] outputs.

    Its params are named dense_1, dense_2, ... The weights start at He's variance 2 / n_in.

    Args:
      sizes: the width of the input, of every hidden layer, and of the output: two or more.
      activation: a Layer; None makes every layer linear.

    Raises:
      ValueError: fewer than two sizes, or one below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"mlp: expected two or more positive sizes, got {tuple(sizes)}")
    layers: dict[str, Layer] = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=1):
        if i > 1 and activation is not None:
            layers[f"activation_{i - 1}"] = activation
        layers[f"dense_{i}"] = Dense(n_in, n_out, w_init=_HE_NORMAL)
    return Serial(**layers)
