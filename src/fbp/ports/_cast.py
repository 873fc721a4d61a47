"""Mixed precision: parameters in one dtype, arithmetic in another."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._gradients import like
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._require import require_layer
from fbp.combinators import Each, Graph, Parallel, Serial, Stack, Sum
from fbp.combinators._map import map_held
from fbp.ports._tie import Tie


@dataclasses.dataclass(frozen=True)
class Cast(Layer):
    """Runs a layer in another dtype than that of its parameters.

        y       = f(cast(params), cast(x))        in `dtype`
        dparams = cast(df/dparams^T dy)           back in the dtype of params
        dx      = cast(df/dx^T dy)                back in the dtype of x

    With float32 params and dtype=bfloat16, matrix products run at bfloat16's speed, while small
    updates of the params are not rounded away. The transpose of a cast is the cast back. Integers
    are not cast.

    Args:
      layer: f.
      dtype: the dtype of its arithmetic.
    """

    layer: Layer
    dtype: DTypeLike = jnp.bfloat16

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(self.cast(params), self.cast(x), key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self.cast(params), self.cast(x), res, self.cast(dy))
        # None is the gradient of an integer.
        floats = jax.tree.map(lambda a: a if _is_float(a) else None, x)
        return like(dparams, params), like(dx, floats)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(self.cast(params), self.cast(x), res)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(self.cast(params), self._as_cast(x), length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(self.cast(params), self.cast(x), state)

    def _as_cast(self, x: PyTree) -> PyTree:
        return jax.eval_shape(self.cast, x)

    def cast(self, tree: PyTree) -> PyTree:
        """Returns the tree with its float arrays cast to `dtype`."""
        return jax.tree.map(lambda a: a.astype(self.dtype) if _is_float(a) else a, tree)


def mixed_precision(model: Layer, dtype: DTypeLike = jnp.bfloat16) -> Layer:
    """Returns the model with a `Cast` around each layer: params unchanged, arithmetic in dtype.

    Unlike `Cast(model, dtype)`, each block of a `Stack` casts its own params when it runs, so that
    all params in dtype never exist at once; and gradients of a shared array, such as a tied one,
    are summed in the dtype of the params.

    Args:
      model: any layer. The layers inside `Serial`, `Parallel`, `Each`, `Sum`, `Graph`, `Stack` and
        `Tie` are wrapped one by one. The x of a Stack must be of dtype, as it is after any other
        layer.
      dtype: the dtype of its arithmetic.
    """
    if isinstance(model, Stack):
        return map_held(lambda block: Cast(block, dtype), model)
    if isinstance(model, Each | Graph | Parallel | Serial | Sum | Tie):
        return map_held(lambda layer: mixed_precision(layer, dtype), model)
    return Cast(model, dtype)


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
