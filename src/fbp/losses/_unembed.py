"""A language model's head fused with its loss, so that only some logits exist at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from fbp._gradients import at_least_int32, like
from fbp._layer import Array, Loss, name_of
from fbp._require import require_params, require_trailing
from fbp._schedules import unembed as schedule
from fbp._schedules.unembed import Tokens
from fbp.losses._mean import broadcast_weight, unweighted

_NORMAL = initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class UnembedCrossEntropy(Loss):
    """Cross-entropy of the logits y @ w^T with labels, in chunks of tokens.

        z    = y w^T,  then  cap * tanh(z / cap)  with a softcap
        lse  = log sum_v exp(z_v),     p = exp(z - lse)
        loss = (1/n) sum_tokens  lse - sum_v q_v z_v  +  z_loss * lse^2
        dz   = (1/n) (p (1 + 2 z_loss lse) - q)
               times 1 - (z / cap)^2 with a softcap            z: the capped logits
        dy   = dz w
        dw   = dz^T y                                          summed over the tokens

    q is one-hot at the label, or (1 - label_smoothing) onehot + label_smoothing / V. Tokens
    whose label is `ignore` do not count, and n is the number of tokens that count; if none counts,
    the loss is 0. With `Weighted(target, weight)` each 1/n is replaced by weight / sum(weight) over
    the tokens that count.

    Since a loss starts the backward pass, the gradient of a chunk can be computed as soon as its
    logits are known. One `lax.scan` over chunks computes both, with three matrix products per
    chunk, not the four that recomputing logits would take, and holds chunk * V logits at a time
    instead of T * V. On a GPU w may be padded with rows of zeros, to a size for which matrix
    products are fast; the logits of these rows are -inf.

    Shapes: y (..., D), target (...) of integers, w (V, D).

    Args:
      size: D, the size of the last axis of y.
      n: V, the number of classes.
      chunk: largest number of tokens in a chunk; None means 1,024, or fewer if these have more than
        2^25 logits (128 MiB in float32). All chunks have about the same size.
      label_smoothing: the fraction of each target that is spread evenly over all classes.
      ignore: label of tokens that do not count, or None.
      z_loss: weight of lse^2, which keeps logits from drifting.
      softcap: bound on |z|, the cap; None for no bound.
      w_init: initializer of w. Normal with a standard deviation of 0.02.
      dtype: dtype of w.
      parts: the number of devices that the tokens lie on, in equal parts side by side: each takes
        its own tokens chunk by chunk, and dw is added up once. `fbp.mesh` sets it.

    Raises:
      ValueError: shapes do not match; a label is outside 0..V-1 and not `ignore`. Inside `jit`,
        where values cannot be checked, such a label makes the loss NaN.
      TypeError: y is not a float array, or target is not of integers.

    Source: softmax's gradient as in `SoftmaxCrossEntropy`; z-loss: Chowdhery et al., "PaLM", 2022.
    """

    size: int
    n: int
    chunk: int | None = None
    label_smoothing: float = 0.0
    ignore: int | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    w_init: initializers.Initializer = _NORMAL
    dtype: DTypeLike = jnp.float32
    parts: int = 1

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"{name_of(self)}: expected chunk of 1 or more, got {self.chunk}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"{name_of(self)}: expected label_smoothing in [0, 1), got {self.label_smoothing}"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"{name_of(self)}: expected softcap above 0, got {self.softcap}")

    def init(self, key: Array) -> dict[str, Array]:
        return {"w": self.w_init(key, (self.n, self.size), self.dtype)}

    def value(self, params: dict[str, Array], y: Array, target: Any) -> Array:
        tokens = self._tokens(params, y, target)
        return schedule.value(self._turn, params["w"], tokens, self.chunk, self.parts)

    def value_and_grad(
        self, params: dict[str, Array], y: Array, target: Any, scale: Any = None
    ) -> tuple[Array, dict[str, Array], Array]:
        tokens = self._tokens(params, y, target)
        if scale is not None:
            tokens = tokens._replace(share=scale * tokens.share)
        value, dw, dy = schedule.value_and_grad(
            self._gradients, params["w"], tokens, self.chunk, self.parts
        )
        value = value if scale is None else value / scale
        return value, like({"w": dw}, params), dy.reshape(y.shape)

    def _gradients(self, w: Array, chunk: Tokens) -> tuple[Array, Array, Array]:
        """Returns a chunk's contribution to the loss and to dw, and its dy."""
        value, dz = self._turn(w, chunk)
        dtype = jnp.result_type(chunk.y, w)
        dz = dz.astype(dtype)
        dy = dz @ w
        dw = jnp.matmul(dz.T, chunk.y, preferred_element_type=jnp.promote_types(dtype, jnp.float32))
        return value, dw, dy.astype(chunk.y.dtype)

    def _turn(self, w: Array, chunk: Tokens) -> tuple[Array, Array]:
        """Returns a chunk's contribution to the loss, and its dz."""
        y, label, share = chunk
        wide = share.dtype
        z = jnp.matmul(y, w.T, preferred_element_type=wide)
        if self.softcap is not None:
            z = self.softcap * jnp.tanh(z / self.softcap)
        is_class: Any = True
        if len(w) > self.n:
            is_class = jnp.arange(len(w)) < self.n
            z = jnp.where(is_class, z, -jnp.inf)
        top = z.max(-1, keepdims=True)
        is_label = jnp.arange(len(w)) == label[:, None]
        # As in `softmax`: of the label, 1 - p is summed and not a difference.
        of_label = jnp.where(is_label, z - top, 0).sum(-1, keepdims=True)
        e = jnp.exp(z - top)
        others = jnp.where(is_label, 0, e).sum(-1, keepdims=True)
        s = (jnp.exp(of_label) - 1) + others
        log_total = jnp.log1p(s)
        lse = top + log_total

        even = self.label_smoothing / self.n
        sure = 1 - self.label_smoothing
        # lse - sum q z, from z - top: a small loss is not rounded away against large logits.
        losses = log_total - sure * of_label
        if even:
            losses -= even * jnp.where(is_class, z - top, 0).sum(-1, keepdims=True)
        losses += self.z_loss * lse**2
        share = share[:, None]
        value = jnp.where(share == 0, 0, share * losses).sum()

        p, rest = e / (1 + s), others / (1 + s)
        dz = jnp.where(is_label, (1 - sure - even) - rest, p - even) + p * (2 * self.z_loss * lse)
        if self.softcap is not None:
            # In padding, dz only has to be finite: it multiplies zeros, and its dw is dropped.
            dz = dz * (1 - jnp.where(is_class, z / self.softcap, 0) ** 2)
        return value, jnp.where(share == 0, 0, share * dz)

    def weight(self, target: Any) -> Array:
        return self._weights(*unweighted(target)).sum()

    def _tokens(self, params: dict[str, Array], y: Array, target: Any) -> Tokens:
        """Returns all tokens and their shares of the mean, after checks of shapes and labels."""
        require_trailing(self, y, (self.size,), "y")
        require_params(self, params, w=(self.n, self.size))
        target, weight = unweighted(target)
        target = at_least_int32(jnp.asarray(target))
        if not jnp.issubdtype(target.dtype, jnp.integer):
            raise TypeError(f"{name_of(self)}: expected integer labels, got {target.dtype}")
        if target.shape != y.shape[:-1]:
            raise ValueError(
                f"{name_of(self)}: expected labels of shape {y.shape[:-1]}, got {target.shape}"
            )
        dtype = jnp.promote_types(jnp.result_type(y, params["w"]), jnp.float32)
        weight = self._weights(target, weight).astype(dtype)
        total = weight.sum()
        share = weight / jnp.where(total == 0, 1, total)
        allowed = (target >= 0) & (target < self.n) | (weight == 0)
        if not isinstance(allowed, jax.core.Tracer) and not allowed.all():
            raise ValueError(
                f"{name_of(self)}: expected labels in 0..{self.n - 1}"
                f"{'' if self.ignore is None else f' or {self.ignore}'}, "
                f"got {target[~allowed].ravel()[0]}"
            )
        share = jnp.where(allowed, share, jnp.nan)
        return Tokens(y.reshape(-1, self.size), target.ravel(), share.ravel())

    def _weights(self, target: Array, weight: Array | None) -> Array:
        """Returns the weight of each token, 0 if its label is ignored."""
        target = at_least_int32(jnp.asarray(target))
        counts = jnp.ones(target.shape)
        if self.ignore is not None:
            counts = jnp.where(target == self.ignore, 0, counts)
        return counts if weight is None else counts * broadcast_weight(self, weight, counts.shape)
