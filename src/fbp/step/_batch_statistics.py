"""Statistics of batch normalization for evaluation, computed from batches of a trained model."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import add
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp.combinators import map_layers
from fbp.layers import BatchNorm, FixedBatchNorm


def with_batch_statistics(
    model: Layer, params: Params, batches: Iterable[PyTree]
) -> tuple[Layer, Params]:
    """Returns the model and params with every `BatchNorm` inside replaced by a `FixedBatchNorm`.

    Its mean and var are averages over the batches of the statistics of each BatchNorm's input. The
    variance is the unbiased estimate, with m the number of values per channel in a batch:

        mean = avg(mean of a batch)        var = avg(m / (m - 1) * var of a batch)

    The given model and params are not changed, and training can continue with them.

    Args:
      model: a Layer with BatchNorms at any depth.
      params: its parameters.
      batches: inputs x of the model, each of the batch size used in training. No noise is drawn.

    Raises:
      ValueError: there are no batches.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
    """
    observed = map_layers(_observed, model)

    @jax.jit
    def observe(params: Params, x: PyTree) -> PyTree:
        y, res = observed.forward(params, x)
        dparams, _ = observed.backward(params, x, res, jax.tree.map(jnp.zeros_like, y))
        # Only the statistics are returned, so the compiler drops all other computations.
        return jax.tree.map(lambda d: d if _is_seen(d) else None, dparams, is_leaf=_is_seen)

    total, n = None, 0
    for x in batches:
        seen = observe(params, x)
        total, n = seen if total is None else add(total, seen), n + 1
    if total is None:
        raise ValueError("with_batch_statistics: expected at least one batch, got none")

    def fixed(seen: Any, of_layer: Params) -> Params:
        if seen is None:
            return of_layer
        mean, var = ((s / n).astype(of_layer["scale"].dtype) for s in (seen.mean, seen.var))
        return {**of_layer, "mean": mean, "var": var}

    return map_layers(_fixed, model), jax.tree.map(
        fixed, total, params, is_leaf=lambda d: d is None or _is_seen(d)
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Seen:
    """Statistics of one batch, in place of the gradients of a BatchNorm's parameters."""

    mean: Array
    var: Array


@dataclasses.dataclass(frozen=True)
class _Observed(Layer):
    """A BatchNorm whose backward returns the statistics of its input in place of dparams.

    The layers around it pass dparams on in the tree of the parameters, so the statistics are
    returned in that tree too, for each copy in a `Stack`.
    """

    norm: BatchNorm

    @property
    def cheap(self) -> bool:
        return self.norm.cheap

    def init(self, key: Array) -> Params:
        return self.norm.init(key)

    def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, PyTree]:
        return self.norm.forward(params, x, key)

    def backward(self, params: Params, x: Array, res: PyTree, dy: Array) -> tuple[Params, Array]:
        mean, var = (statistic.ravel() for statistic in res)
        m = x.size // self.norm.n
        return _Seen(mean, var * (m / max(m - 1, 1))), jnp.zeros_like(x)

    def recompute(self, params: Params, x: Array, res: PyTree) -> Array:
        return self.norm.recompute(params, x, res)


def _observed(layer: Layer) -> Layer:
    return _Observed(layer) if isinstance(layer, BatchNorm) else layer


def _fixed(layer: Layer) -> Layer:
    if isinstance(layer, BatchNorm):
        return FixedBatchNorm(layer.n, layer.eps, layer.dtype)
    return layer


def _is_seen(value: Any) -> bool:
    return isinstance(value, _Seen)
