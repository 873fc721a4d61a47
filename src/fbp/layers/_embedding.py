"""Embedding: rows of a table looked up by integers; its transpose, Unembed; and Positions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import at_least_float32, at_least_int32, like, product_over_batch
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_params, require_trailing

_NORMAL = initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Embedding(Layer):
    """Looks up a row of a table for each integer.

        y      = w[x]
        dw[i]  = sum of dy over all positions where x = i    repeated ids add up
        dx     = None                                        an integer has no gradient

    This equals onehot(x) @ w with dw = onehot(x)^T dy, but dw is a scatter-add that only writes the
    rows that were read.

    Shapes: x (...) of integers, w (V, D), y (..., D).

    Args:
      n: V, the number of rows; ids are 0..n-1.
      size: D, the size of a row.
      w_init: initializer of w. Normal with a standard deviation of 0.02, as in GPT-2.
      dtype: dtype of the parameters.

    Raises:
      TypeError: x is not an integer array.
      ValueError: an id is outside 0..n-1; inside `jit`, where values cannot be
        checked, its row of y is NaN instead. params are not of this layer.
    """

    n: int
    size: int
    w_init: initializers.Initializer = _NORMAL
    dtype: DTypeLike = jnp.float32

    def init(self, key: Array) -> dict[str, Array]:
        return {"w": self.w_init(key, (self.n, self.size), self.dtype)}

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_params(self, params, w=(self.n, self.size))
        if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
            got = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"Embedding: expected x to be an integer array, got {got}")
        x = at_least_int32(x)
        outside = (x < 0) | (x >= self.n)
        if not isinstance(outside, jax.core.Tracer) and outside.any():
            raise ValueError(
                f"Embedding: expected ids in 0..{self.n - 1}, got {x[outside].ravel()[0]}"
            )
        # A negative index would count from the end.
        rows = jnp.where(outside, self.n, x)
        return jnp.asarray(params["w"]).at[rows].get(mode="fill", fill_value=jnp.nan), ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], None]:
        x, dy = at_least_int32(x), at_least_float32(dy)
        rows = jnp.where(x < 0, self.n, x)
        dw = jnp.zeros((self.n, self.size), dy.dtype).at[rows].add(dy, mode="drop")
        return like({"w": dw}, params), None


@dataclasses.dataclass(frozen=True)
class Unembed(Layer):
    """Scores every row of a table: the transpose of `Embedding`, a language model's logits.

        y  = x @ w^T
        dw = dy^T @ x          summed over the batch axes
        dx = dy @ w

    Same as `Dense` without a bias, but w is stored transposed, as in `Embedding`, so that `Tie` can
    share one array between both. Shapes: x (..., D), w (V, D), y (..., V).

    Args:
      size: D, the size of the last axis of x.
      n: V, the number of rows.
      w_init: initializer of w. Normal with a standard deviation of 0.02.
      dtype: dtype of the parameters.

    Raises:
      ValueError: the last axis of x is not size; params are not of this layer.
      TypeError: x is not a float array.
    """

    size: int
    n: int
    w_init: initializers.Initializer = _NORMAL
    dtype: DTypeLike = jnp.float32

    def init(self, key: Array) -> dict[str, Array]:
        return {"w": self.w_init(key, (self.n, self.size), self.dtype)}

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        require_trailing(self, x, (self.size,))
        require_params(self, params, w=(self.n, self.size))
        return x @ params["w"].T, ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dx = dy @ params["w"]
        return like({"w": product_over_batch(dy, x)}, params), dx.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Positions(Layer):
    """Adds a learned vector to each position of a sequence, so that y depends on the order.

        y_t  = x_t + w_t
        dw_t = sum of dy_t over the batch axes, 0 for t >= T
        dx   = dy

    Shapes: x and y (..., T, D) with T <= n, w (n, D).

    Args:
      n: the longest sequence.
      size: D, the size of the last axis of x.
      w_init: initializer of w. Normal with a standard deviation of 0.02.
      dtype: dtype of the parameters.

    Raises:
      ValueError: x has more than n positions, or a last axis other than size; params are not of
        this layer.
      TypeError: x is not a float array.
    """

    n: int
    size: int
    w_init: initializers.Initializer = _NORMAL
    dtype: DTypeLike = jnp.float32
    cheap = True

    def init(self, key: Array) -> dict[str, Array]:
        return {"w": self.w_init(key, (self.n, self.size), self.dtype)}

    def forward(self, params: dict[str, Array], x: Array, key: Key = None) -> tuple[Array, Any]:
        self.require(params, x)
        return x + params["w"][: x.shape[-2]], ()

    def backward(
        self, params: dict[str, Array], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Array], Array]:
        dw = at_least_float32(dy).sum(range(dy.ndim - 2))
        dw = jnp.pad(dw, ((0, self.n - len(dw)), (0, 0)))
        return like({"w": dw}, params), dy.astype(x.dtype)

    def require(self, params: dict[str, Array], x: Array) -> None:
        """Raises unless x and params have the shapes that `Positions` documents."""
        require_trailing(self, x, (self.size,))
        require_params(self, params, w=(self.n, self.size))
        if x.ndim < 2 or x.shape[-2] > self.n:
            raise ValueError(
                f"{name_of(self)}: expected x (..., T, {self.size}) with T of at most {self.n}, "
                f"got shape {x.shape}"
            )

    def start(self, params: dict[str, Array], x: Array, length: int) -> Array:
        if length > self.n:
            raise ValueError(f"{name_of(self)}: expected at most {self.n} places, got {length}")
        return jnp.zeros((), jnp.int32)

    def steps(self, params: dict[str, Array], x: Array, state: Array) -> tuple[Array, Array]:
        w = lax.dynamic_slice_in_dim(params["w"], state, len(x))
        return x + w.reshape(len(x), *(1,) * (x.ndim - 2), self.size), state + len(x)
