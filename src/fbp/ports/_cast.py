"""Masters in one precision, arithmetic in another."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._layer import Array, Key, Layer, Params, PyTree, like, require_layer


@dataclasses.dataclass(frozen=True)
class Cast(Layer):
    """Runs a layer in another dtype than its parameters are kept in.

        y       = f(cast(params), cast(x))        in `dtype`
        dparams = cast(df/dparams^T dy)           back in the dtype of params
        dx      = cast(df/dx^T dy)                back in the dtype of x

    With float32 params and dtype=bfloat16: masters that small updates are not lost in, products
    that run at bfloat16's speed. The transpose of a cast is the cast back. Integers stay as they
    are.

    Args:
      layer: f.
      dtype: what it computes in.
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
        return self.layer.forward(self._cast(params), self._cast(x), key)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(self._cast(params), self._cast(x), res, self._cast(dy))
        # None is the gradient of an integer.
        floats = jax.tree.map(lambda a: a if _is_float(a) else None, x)
        return like(dparams, params), like(dx, floats)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return self.layer.recompute(self._cast(params), self._cast(x), res)

    def _cast(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(self.dtype) if _is_float(a) else a, tree)


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
