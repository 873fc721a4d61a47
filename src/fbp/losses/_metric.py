"""Losses of distances between embeddings: contrastive and triplet."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from fbp._gradients import like
from fbp._layer import Array, Loss, name_of
from fbp._require import require_params
from fbp.losses._length import length_and_direction
from fbp.losses._mean import shares, unweighted, weighted_sum
from fbp.losses._targetless import Parts, Targetless, require_parts, widened


@dataclasses.dataclass(frozen=True)
class Contrastive(Loss):
    """CLIP's loss (InfoNCE): each a_i is to find its b_i among all b, and each b_i its a_i.

        A = a / |a|,  B = b / |b|               row by row
        S = s A B^T,  s = exp(log_scale)        (n, n): similarities over a learned temperature 1/s
        P = softmax(S) along each row,   Q = softmax(S) along each column
        loss = -(1/2n) sum_i  log P_ii + log Q_ii

    Softmax cross-entropy has the gradient softmax - onehot, here along rows and along columns:

        dS = (1/2n) (P + Q - 2 I)
        dA = s dS B,   dB = s dS^T A,   dlog_scale = sum(dS * S)        since dS/dlog_scale = S

    and through A = a / |a|: a step da moves |a| by A . da, so

        dA/da . da = da / |a| - a (A . da) / |a|^2 = (da - A (A . da)) / |a|

    which is symmetric: da = (dA - A (A . dA)) / |a|, what is orthogonal to a. A row a_i = 0 has no
    direction: its A_i is taken as 0, and its gradient as 0.

    With `Weighted(None, weight)`, weights (n,), each 1/n is replaced by weight / sum(weight), and
    an example of weight 0 is left out altogether, as padding: it is not compared with others
    either.

    The loss of a batch is not a mean over its parts, since each example is compared with all others
    of the batch: `weight` raises, so that `Microbatch` refuses to cut a batch. The scale is learned
    without a bound: CLIP keeps log_scale below log(100) by clipping it after each step.

    Shapes: y = {"a": (n, D), "b": (n, D)}; params {"log_scale": ()}. The target is None, or
    anything: it is not read.

    Args:
      temperature: 1/s at the start.
      dtype: dtype of log_scale.

    Raises:
      ValueError: the temperature is not positive; y is not such a dict; a weight does not fit;
        `weight` is asked for.
      TypeError: a part of y is not a float array.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    2021, figure 3; van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018.
    """

    temperature: float = 0.07
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                "Contrastive: expected temperature to be positive and finite, "
                f"got {self.temperature}"
            )

    def init(self, key: Array) -> dict[str, Array]:
        return {"log_scale": jnp.asarray(-math.log(self.temperature), self.dtype)}

    def value_and_grad(
        self, params: dict[str, Array], y: Parts, target: Any
    ) -> tuple[Array, dict[str, Array], Parts]:
        require_parts(self, y, ("a", "b"), 2)
        require_params(self, params, log_scale=())
        if y["a"].ndim != 2:
            raise ValueError(f"Contrastive: expected a and b (n, D), got shape {y['a'].shape}")
        _, weight = unweighted(target)
        wide = widened(y)
        share = jnp.broadcast_to(
            shares(self, weight, wide["a"].shape[:1], wide["a"].dtype), wide["a"].shape[:1]
        )
        counts = (share != 0)[:, None]
        length_a, a = length_and_direction(wide["a"])
        length_b, b = length_and_direction(wide["b"])
        # Zeros, so that what is not finite in a row that does not count meets no other.
        a, b = jnp.where(counts, a, 0), jnp.where(counts, b, 0)

        s = jnp.exp(params["log_scale"].astype(a.dtype))
        scores = s * (a @ b.T)
        seen = jnp.where(counts & counts.T, scores, -jnp.inf)
        value_a, dscores_a = _find(seen, share)
        value_b, dscores_b = _find(seen.T, share)
        dscores = (dscores_a + dscores_b.T) / 2
        dy = {
            "a": _through_direction(a, length_a, s * (dscores @ b)),
            "b": _through_direction(b, length_b, s * (dscores.T @ a)),
        }
        dparams = {"log_scale": (dscores * scores).sum()}
        return (value_a + value_b) / 2, like(dparams, params), like(dy, y)

    def weight(self, target: Any) -> Array:
        raise ValueError(
            f"{name_of(self)}.weight: expected a whole batch, got a part: each example is compared "
            "with all others of its batch, so the losses of parts do not add up to the whole's; "
            "take the batch without Microbatch"
        )


def _find(scores: Array, share: Array) -> tuple[Array, Array]:
    """Softmax cross-entropy of (n, n) scores along rows, whose labels are the diagonal."""
    top = scores.max(-1, keepdims=True, initial=-jnp.inf)
    # A row that does not count has only -inf.
    z = scores - jnp.where(top == -jnp.inf, 0, top)
    e, is_label = jnp.exp(z), jnp.eye(len(scores), dtype=bool)
    # As in `softmax`: of the label, 1 - p is summed and not a difference.
    others = jnp.where(is_label, 0, e).sum(-1, keepdims=True)
    s = (jnp.diagonal(e)[:, None] - 1) + others
    s = jnp.where(s == -1, 0, s)
    losses = jnp.log1p(s[:, 0]) - jnp.diagonal(z)
    row = share[:, None]
    dscores = jnp.where(row == 0, 0, row * jnp.where(is_label, -others, e) / (1 + s))
    return weighted_sum(share, losses), dscores


def _through_direction(direction: Array, length: Array, d: Array) -> Array:
    """The gradient of v from that of its direction, v / |v|."""
    across = d - direction * (direction * d).sum(-1, keepdims=True)
    # Rows without a direction: v = 0, and rows that do not count.
    none = (direction == 0).all(-1, keepdims=True)
    return jnp.where(none, 0, across / jnp.where(none, 1, length))


@dataclasses.dataclass(frozen=True)
class Triplet(Targetless):
    """An anchor is to be nearer to a positive than to a negative, by a margin.

        loss = (1/n) sum_rows  max(0, |a - p| - |a - q| + margin)     q: the negative
        u    = (a - p) / |a - p|,   v = (a - q) / |a - q|
        da   = (1/n) (u - v),   dp = -(1/n) u,   dq = (1/n) v         where the loss is above 0

    and 0 elsewhere. The gradient of a distance |d| is its direction d / |d|; where d = 0 it is
    taken as 0, the middle of the subdifferential. At the kink, where the loss is just 0, the
    gradient is taken as 0, as for `Relu`. With `Weighted(target, weight)` each 1/n is replaced by
    weight / sum(weight).

    Shapes: y = {"anchor", "positive", "negative"}, each (..., D); n is the number of rows. The
    target as for `NormalKLDivergence`: no number of it is read.

    Args:
      margin: by how much the negative is to be farther away.

    Raises:
      ValueError: the margin is negative; y is not such a dict; its shapes differ; a weight does not
        fit; `weight` is asked of a target without arrays.
      TypeError: a part of y is not a float array.

    Source: Schroff, Kalenichenko, Philbin, "FaceNet", 2015 (there with squared distances).
    """

    margin: float = 1.0

    names = ("anchor", "positive", "negative")

    def __post_init__(self) -> None:
        if not 0 <= self.margin < float("inf"):
            raise ValueError(
                f"Triplet: expected margin to be 0 or more, and finite, got {self.margin}"
            )

    def rows(self, y: Parts) -> tuple[Array, Parts]:
        near, u = length_and_direction(y["anchor"] - y["positive"])
        far, v = length_and_direction(y["anchor"] - y["negative"])
        excess = near - far + self.margin
        # By <=, so that a NaN is not taken for 0.
        u, v = jnp.where(excess <= 0, 0, u), jnp.where(excess <= 0, 0, v)
        losses = jnp.where(excess <= 0, 0, excess)[..., 0]
        return losses, {"anchor": u - v, "positive": -u, "negative": v}
