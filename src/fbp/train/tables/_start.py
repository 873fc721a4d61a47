"""Where the training of a network on a table begins: at a linear model."""

from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array
from fbp.train.tables._folds import Arrays
from fbp.train.tables._line import best_line


def linear_start(params: Any, train: Arrays, left: Arrays, classes: int, key: Array) -> Any:
    """Params of `Members` of Sum(linear=Dense, network=mlp) that give exactly a linear model.

    The linear part is the best line, and the last layer of the network is 0. So the network learns
    what the line leaves over, and if it never gets better on the rows left out, the line is kept.

    The biases of the first layer are drawn like its inputs: with biases of 0, every relu would have
    its kink at the mean of x, and curves would stay straight at their ends.

    Args:
      params: as drawn.
      train, left: of `folds`.
      classes: how many, for labels; 0 for numbers.
      key: for the biases.
    """
    w, b, _ = best_line(train, left, classes)
    network = dict(params["network"])
    first, last = "dense_1", f"dense_{sum(name.startswith('dense_') for name in network)}"
    network[last] = jax.tree.map(jnp.zeros_like, network[last])
    biases = network[first]["b"]
    network[first] = {**network[first], "b": jax.random.normal(key, biases.shape, biases.dtype)}
    linear = {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
    return {**params, "linear": linear, "network": network}
