"""Classification losses: cross-entropy from logits, stable for all finite logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._gradients import at_least_float32, at_least_int32
from fbp._layer import Array, Loss
from fbp._require import require_float
from fbp.losses._elementwise import Elementwise
from fbp.losses._mean import broadcast_weight, shares, unweighted, weighted_sum
from fbp.losses._softmax import likeliest, softmax


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy(Elementwise):
    """Binary cross-entropy of logits y with targets t between 0 and 1.

        loss = (1/n) sum  -t log s - (1 - t) log(1 - s),     s = sigmoid(y)
             = (1/n) sum  log(1 + exp(-|y|)) + ((1 - t) y where y > 0, else -t y)
        dy   = (1/n) (s - t)                         where y > 0: (1 - t) - sigmoid(-y)

    The second forms neither overflow nor lose the digits of a small difference. Shapes, weights and
    errors as for `MeanSquaredError`.
    """

    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        e = jnp.exp(-jnp.abs(y))
        small = e / (1 + e)  # the smaller one of sigmoid(y) and 1 - sigmoid(y)
        loss = jnp.where(y > 0, (1 - target) * y, -target * y) + jnp.log1p(e)
        return loss, jnp.where(y > 0, (1 - target) - small, small - target)


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of logits y with integer labels or with distributions over the classes.

        p    = softmax(y)
        loss = -(1/n) sum_rows sum_c q_c log p_c
        dy_c =  (1/n) (p_c sum(q) - q_c)             p_c - q_c where q sums to 1

    q is the target distribution: one-hot for an integer label, and with smoothing
    (1 - label_smoothing) q + label_smoothing / C. Rows whose label is `ignore` do not count, and n
    is the number of rows that count; if none counts, the loss is 0. With `Weighted(target, weight)`
    each 1/n is replaced by weight / sum(weight) over the rows that count.

    Shapes: y (..., C); target (...) of integers, or (..., C) of floats.

    Args:
      label_smoothing: the fraction of each target that is spread evenly over all classes.
      ignore: label of rows that do not count, or None.

    Raises:
      ValueError: shapes do not match; a label is outside 0..C-1 and not `ignore`. Inside `jit`,
        where values cannot be checked, such a label makes the loss NaN.
      TypeError: y is not a float array.
    """

    label_smoothing: float = 0.0
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "SoftmaxCrossEntropy: expected label_smoothing in [0, 1), "
                f"got {self.label_smoothing}"
            )

    def value_and_grad(
        self, params: tuple[()], y: Array, target: Any
    ) -> tuple[Array, tuple[()], Array]:
        require_float(self, y, "y")
        target, weight = unweighted(target)
        target = at_least_int32(jnp.asarray(target))
        weight = self._row_weight(target, weight)
        q = self._distribution(target, weight, y)

        labels = _are_labels(target)
        is_k = jnp.arange(y.shape[-1]) == target[..., None] if labels else likeliest(q)
        p, total = softmax(at_least_float32(y), is_k), q.sum(-1, keepdims=True)
        # A class with q = 0 contributes nothing, even where log p = -inf.
        of_z = jnp.where(q == 0, 0, q * p.z).sum(-1)
        losses = (total * p.log_total)[..., 0] - of_z

        share = shares(self, weight, losses.shape, losses.dtype)
        row = share[..., None]
        dy = jnp.where(row == 0, 0, row * p.minus(q, total))
        return weighted_sum(share, losses), (), dy.astype(y.dtype)

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        target = at_least_int32(jnp.asarray(target))
        rows = target.shape if _are_labels(target) else target.shape[:-1]
        weight = self._row_weight(target, weight)
        return jnp.sum(jnp.ones(rows[:1]) if weight is None else weight)

    def _row_weight(self, target: Array, weight: Array | None) -> Array | None:
        """Returns the weight of each row, 0 if its label is ignored; None for equal weights."""
        if self.ignore is None or not _are_labels(target):
            return weight
        counts = (target != self.ignore).astype(float)
        return counts if weight is None else broadcast_weight(self, weight, counts.shape) * counts

    def _distribution(self, target: Array, weight: Array | None, y: Array) -> Array:
        """Returns q, the target distribution of each row."""
        classes = y.shape[-1] if y.ndim else 0
        if not classes:
            raise ValueError(f"SoftmaxCrossEntropy: expected y (..., C), got shape {y.shape}")
        labels = _are_labels(target)
        expected = y.shape[:-1] if labels else y.shape
        if target.shape != expected:
            kind, cure = "integer labels" if labels else "a float distribution", ""
            if not labels and target.shape in (y.shape[:-1], (*y.shape[:-1], 1)):
                cure = f": make the labels integers, of shape {y.shape[:-1]}"
            raise ValueError(
                f"SoftmaxCrossEntropy: expected {kind} of shape {expected}, got {target.shape}"
                f"{cure}"
            )
        q = jax.nn.one_hot(target, classes) if labels else target
        q = q.astype(at_least_float32(y).dtype)
        q = (1 - self.label_smoothing) * q + self.label_smoothing / classes
        if labels:
            allowed = (target >= 0) & (target < classes)
            if weight is not None:
                # Rows of weight 0, such as ignored ones, may have any label.
                allowed |= broadcast_weight(self, weight, target.shape) == 0
            if not isinstance(allowed, jax.core.Tracer) and not allowed.all():
                raise ValueError(
                    f"SoftmaxCrossEntropy: expected labels in 0..{classes - 1}"
                    f"{'' if self.ignore is None else f' or {self.ignore}'}, "
                    f"got {target[~allowed].ravel()[0]}"
                )
            q = jnp.where(allowed[..., None], q, jnp.nan)
        return q


def _are_labels(target: Array) -> bool:
    return jnp.issubdtype(target.dtype, jnp.integer)
