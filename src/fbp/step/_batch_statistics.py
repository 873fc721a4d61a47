"""From training to evaluation: the statistics that batch normalization goes on with."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fbp._layer import Array, Key, Layer, Params, PyTree, add
from fbp.combinators import map_layers
from fbp.layers import BatchNorm, FixedBatchNorm


def with_batch_statistics(
    model: Layer, params: Params, batches: Iterable[PyTree]
) -> tuple[Layer, Params]:
    """Returns the model and params with every `BatchNorm` inside replaced by a `FixedBatchNorm`.

    Its mean and var are the averages over the batches of what each BatchNorm saw, with the
    variance unbiased, as for the population that a batch of m numbers is drawn from:

        mean = avg(mean of a batch)        var = avg(m / (m - 1) * var of a batch)

    The model and params given stay as they are, and training can go on with them.

    Args:
      model: a Layer with BatchNorms wherever it may hold layers.
      params: its parameters.
      batches: inputs x of the model, each of the size it was trained with. No noise is drawn.

    Raises:
      ValueError: there are no batches.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
    """
    observed = map_layers(_observed, model)

    @jax.jit
    def observe(params: Params, x: PyTree) -> PyTree:
        y, res = observed.forward(params, x)
        dparams, _ = observed.backward(params, x, res, jax.tree.map(jnp.zeros_like, y))
        # Nothing else is asked for, so that nothing else is computed.
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
    """Statistics of one batch, where the gradients of a BatchNorm's parameters would be."""

    mean: Array
    var: Array


@dataclasses.dataclass(frozen=True)
class _Observed(Layer):
    """A BatchNorm whose backward returns what it saw in the place of dparams.

    Whatever the layers around it are, they carry dparams out, in the places of the parameters: so
    the statistics come out too, and of each copy in a `Stack`.
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
