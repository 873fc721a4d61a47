"""LoRA: fine-tuning with few parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from fbp._described import described
from fbp._gradients import like, product_over_batch
from fbp._layer import Array, Key, Layer, name_of
from fbp.layers import Dense
from fbp.ports._freeze import Freeze


@dataclasses.dataclass(frozen=True)
class LoRA(Layer):
    """A frozen `Dense` plus a trained product of two matrices of low rank.

        y  = dense(x) + c * (x @ a) @ b,     c = alpha / rank
        da = c * x^T @ (dy @ b^T)
        db = c * (x @ a)^T @ dy              both summed over the batch axes
        dx = (dx of dense) + c * (dy @ b^T) @ a^T

    The effective matrix is w + c a b. Its gradient would be dw = x^T dy, whence da = c dw b^T and
    db = c a^T dw by the chain rule, but dw is never formed. The gradients of the frozen parameters
    are 0. b starts at 0, so that y starts equal to dense(x). See `trainable` for the optimizer.

    Shapes: x (..., n_in), a (n_in, rank), b (rank, n_out), y (..., n_out). params is
    {"dense": params of the dense layer, "a": a, "b": b}.

    Args:
      dense: the layer to tune.
      rank: the size of the axis that a and b share.
      alpha: scale of the product; `rank` by default, so that c = 1.

    Raises:
      TypeError: dense is not a Dense.
      ValueError: rank is below 1; the last axis of x is not n_in.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """

    dense: Dense
    rank: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dense, Dense):
            raise TypeError(f"{name_of(self)}: expected a Dense, got {described(self.dense)}")
        if self.rank < 1:
            raise ValueError(f"{name_of(self)}: expected rank of 1 or more, got {self.rank}")

    @property
    def scale(self) -> float:
        """c."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def init(self, key: Array) -> dict[str, Any]:
        dense_key, key = jax.random.split(key)
        return self.around(self.dense.init(dense_key), key)

    def around(self, dense_params: dict[str, Array], key: Array) -> dict[str, Any]:
        """Returns params made of those of the dense layer and of initial a and b."""
        dtype = self.dense.dtype
        return {
            "dense": dense_params,
            "a": initializers.lecun_normal()(key, (self.dense.n_in, self.rank), dtype),
            "b": jnp.zeros((self.rank, self.dense.n_out), dtype),
        }

    def merged(self, params: dict[str, Any]) -> dict[str, Array]:
        """Returns params of a `Dense` that computes the same function, with matrix w + c a b."""
        dense = params["dense"]
        w = dense["w"] + self.scale * (params["a"] @ params["b"])
        return {**dense, "w": w.astype(dense["w"].dtype)}

    def forward(self, params: dict[str, Any], x: Array, key: Key = None) -> tuple[Array, Any]:
        y, _ = Freeze(self.dense).forward(params["dense"], x)
        return y + self.scale * ((x @ params["a"]) @ params["b"]), ()

    def backward(
        self, params: dict[str, Any], x: Array, res: Any, dy: Array
    ) -> tuple[dict[str, Any], Array]:
        a, b = params["a"], params["b"]
        ddense, dx = Freeze(self.dense).backward(params["dense"], x, (), dy)
        dinner = self.scale * (dy @ b.T)
        da = product_over_batch(x, dinner)
        db = self.scale * product_over_batch(x @ a, dy)
        dx = dx + dinner @ a.T
        return {"dense": ddense, **like({"a": da, "b": db}, {"a": a, "b": b})}, dx.astype(x.dtype)
