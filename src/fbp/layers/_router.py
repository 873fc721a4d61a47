"""TopKRouter: which experts of a mixture a token goes to."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32
from fbp._layer import Array, Key, Layer, name_of
from fbp._require import require_float

# {"weights": ..., "indices": ...}
Route = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class TopKRouter(Layer):
    """Chooses the k most probable experts, and how much each of them counts.

        p = softmax(x)
        indices, the i_1..i_k of the k largest p, the largest first
        w_j = p[i_j] / sum_l p[i_l]         the softmax over the chosen logits alone

        ds_j = w_j (dw_j - sum_l w_l dw_l)
        dx   = ds_j at i_j, 0 elsewhere

    where w and dw are y's "weights" and their gradient. Which experts are chosen is constant almost
    everywhere: the indices have no gradient (dy["indices"] is not read). Of equal logits the first
    are chosen, as `lax.top_k` does.

    Without `renormalise`, w_j = p[i_j]. With k = 1 the renormalised weight is always 1 and tells
    the router nothing; Switch transformers do not renormalise:

        dx = (w_j dw_j at i_j, 0 elsewhere) - p sum_l w_l dw_l

    Softmaxes are taken in at least float32. res is w, in that dtype, and the indices: y itself,
    where x is of float32.

    Shapes: x (..., E), y = {"weights": (..., k), "indices": (..., k) of int32}.

    Args:
      k: number of experts for each token.
      renormalise: whether the weights of a token sum to 1.

    Raises:
      ValueError: k is below 1; x has fewer than k experts.
      TypeError: x is not a float array.

    Source: Shazeer et al., "Outrageously Large Neural Networks: The Sparsely-Gated
    Mixture-of-Experts Layer", arXiv:1701.06538; Fedus, Zoph and Shazeer, "Switch Transformers",
    arXiv:2101.03961.
    """

    k: int
    renormalise: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"{name_of(self)}: expected k of 1 or more, got {self.k}")

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Route, Any]:
        require_float(self, x)
        if not x.ndim or x.shape[-1] < self.k:
            raise ValueError(
                f"{name_of(self)}: expected x (..., E) with {self.k} experts or more, "
                f"got shape {x.shape}"
            )
        # Through a barrier: where XLA sees a slice of a top_k, which a layer behind this one may
        # take too, it sorts all logits instead, in 25 times the time on a CPU.
        s, indices = lax.optimization_barrier(lax.top_k(x, self.k))
        s, among = at_least_float32(s), at_least_float32(s if self.renormalise else x)
        # No weight depends on what is subtracted, the largest logit.
        top = lax.stop_gradient(s[..., :1])
        w = jnp.exp(s - top) / jnp.exp(among - top).sum(-1, keepdims=True)
        return {"weights": w.astype(x.dtype), "indices": indices}, (w, indices)

    def backward(
        self, params: tuple[()], x: Array, res: tuple[Array, Array], dy: Route
    ) -> tuple[tuple[()], Array]:
        w, indices = res
        dlog_w = w * dy["weights"]
        total = dlog_w.sum(-1, keepdims=True)
        if self.renormalise:
            dx = _at(indices, dlog_w - w * total, x.shape[-1])
        else:
            p = jax.nn.softmax(at_least_float32(x), -1)
            dx = _at(indices, dlog_w, x.shape[-1]) - p * total
        return (), dx.astype(x.dtype)


def _at(indices: Array, values: Array, experts: int) -> Array:
    """Returns values at their indices and 0 elsewhere: (..., k), (..., k) -> (..., E)."""
    pairs = (jnp.split(a, a.shape[-1], -1) for a in (indices, values))
    here = jnp.arange(experts)
    return sum(
        (jnp.where(index == here, value, 0) for index, value in zip(*pairs, strict=True)),
        jnp.zeros((), values.dtype),
    )
