"""LoadBalance: the loss that keeps the experts of a mixture equally busy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array, Loss, name_of
from fbp._require import require_float
from fbp.losses._mean import broadcast_weight, shares, unweighted


@dataclasses.dataclass(frozen=True)
class LoadBalance(Loss):
    """How unequally a router spreads its tokens over the experts: 1 where all are equally busy.

        p_t  = softmax(y_t)
        P_e  = sum_t s_t p_te            the mean probability of expert e
        f_e  = the share of the choices, k for each token t that counts s_t, that fell on e
        loss = E sum_e f_e P_e
        dy_t = s_t p_te (E f_e - E sum_i f_i p_ti)

    s_t is the share of token t, 1/n where all n count alike. f counts and has no gradient: it
    stands there as a constant, with which P_e is pushed down where f_e is large. y are the logits
    that `TopKRouter` chooses by.

    It is no mean over tokens but a product of two. In parts of a batch, as with `Microbatch`, each
    part is balanced by itself, which asks for more, and so do the groups of Switch and GShard.

    Shapes: y (..., E); target (...) of bools or numbers, how much each token counts (0 for
    padding), or `Weighted(target, weight)`. If none counts, the loss is 0.

    Args:
      k: number of experts that the router chooses for each token.

    Raises:
      ValueError: k is below 1 or above E; the target has not the shape of y without its last axis.
      TypeError: y is not a float array.

    Source: Fedus, Zoph and Shazeer, "Switch Transformers", arXiv:2101.03961, for k = 1; Lepikhin
    et al., "GShard", arXiv:2006.16668.
    """

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"{name_of(self)}: expected k of 1 or more, got {self.k}")

    def value_and_grad(
        self, params: tuple[()], y: Array, target: Any
    ) -> tuple[Array, tuple[()], Array]:
        require_float(self, y, "y")
        if not y.ndim or y.shape[-1] < self.k:
            raise ValueError(
                f"{name_of(self)}: expected y (..., E) with {self.k} experts or more, "
                f"got shape {y.shape}"
            )
        counts = self._counts(target)
        if counts.shape != y.shape[:-1]:
            raise ValueError(
                f"{name_of(self)}: expected target to have the shape of y without its last axis, "
                f"{y.shape[:-1]}, got shape {counts.shape}"
            )
        experts, wide = y.shape[-1], at_least_float32(y)
        share = shares(self, counts, counts.shape, wide.dtype)[..., None]
        _, chosen = lax.top_k(y, self.k)
        is_chosen = (chosen[..., None] == jnp.arange(experts)).any(-2)
        tokens = tuple(range(y.ndim - 1))
        f = (share * is_chosen).sum(tokens) / self.k
        p = jax.nn.softmax(wide, -1)
        # A token that does not count has no effect, even if it is not finite.
        mean = jnp.where(share == 0, 0, share * p).sum(tokens)
        value = experts * (f * mean).sum()
        slope = experts * (f - (f * p).sum(-1, keepdims=True))
        dy = jnp.where(share == 0, 0, share * p * slope)
        return value, (), dy.astype(y.dtype)

    def weight(self, target: Any) -> Array:
        return self._counts(target).sum()

    def _counts(self, target: Any) -> Array:
        """Returns how much each token counts."""
        target, weight = unweighted(target)
        counts = jnp.asarray(target)
        counts = counts.astype(jnp.promote_types(counts.dtype, jnp.float32))
        return counts if weight is None else counts * broadcast_weight(self, weight, counts.shape)
