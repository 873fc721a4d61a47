"""Kullback-Leibler divergences: of a normal from the standard normal, and between softmaxes."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from fbp._gradients import at_least_float32
from fbp._layer import Array, Loss
from fbp._require import require_float
from fbp.losses._mean import count_examples, shares, unweighted, weighted_sum
from fbp.losses._softmax import Softmax, likeliest, softmax
from fbp.losses._targetless import Parts, Targetless


@dataclasses.dataclass(frozen=True)
class NormalKLDivergence(Targetless):
    """KL(N(mean, exp(log_var)) || N(0, 1)) of a diagonal normal: a variational autoencoder's price.

        loss     = (1/n) sum_rows sum_d  (mean^2 + exp(log_var) - 1 - log_var) / 2
        dmean    = (1/n)  mean
        dlog_var = (1/n)  (exp(log_var) - 1) / 2

    The sum is over the last axis, the mean over all others. With `Weighted(target, weight)` each
    1/n is replaced by weight / sum(weight).

    Shapes: y = {"mean": (..., D), "log_var": (..., D)}. No number of the target is read: it is
    None, or, where a batch is cut into parts, any array with examples as its first axis (the
    images, say), by which they are counted.

    Raises:
      ValueError: y is not such a dict; its shapes differ; a weight does not fit; `weight` is asked
        of a target without arrays.
      TypeError: a part of y is not a float array.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, appendix B.
    """

    names = ("mean", "log_var")

    def rows(self, y: Parts) -> tuple[Array, Parts]:
        mean, log_var = y["mean"], y["log_var"]
        excess = jnp.expm1(log_var)  # of the variance over 1, to full precision near 1
        losses = (mean**2 + (excess - log_var)).sum(-1) / 2
        return losses, {"mean": mean, "log_var": excess / 2}


@dataclasses.dataclass(frozen=True)
class SoftmaxKLDivergence(Loss):
    """KL(q || p) of the softmax p of logits y from a target distribution q: distillation.

        p    = softmax(y / T)
        q    = softmax(target / T)                   or the target itself, of probabilities
        loss = (T^2/n) sum_rows sum_c q_c (log q_c - log p_c)
        dy_c = (T/n) (p_c sum(q) - q_c)              p_c - q_c where q sums to 1

    T is the temperature. The gradient of a softmax at temperature T is of the order 1/T^2; the
    factor T^2 keeps the loss's weight beside others the same at every T. The target has no
    gradient. A class of q_c = 0 contributes nothing. With `Weighted(target, weight)` each 1/n is
    replaced by weight / sum(weight).

    Shapes: y and target (..., C); n is the number of rows.

    Args:
      temperature: T.
      probabilities: the target is q, not logits; T then acts on y alone.

    Raises:
      ValueError: the temperature is not positive; the shapes of y and target differ.
      TypeError: y is not a float array.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    temperature: float = 1.0
    probabilities: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                "SoftmaxKLDivergence: expected temperature to be positive and finite, "
                f"got {self.temperature}"
            )

    def value_and_grad(
        self, params: tuple[()], y: Array, target: Any
    ) -> tuple[Array, tuple[()], Array]:
        require_float(self, y, "y")
        target, weight = unweighted(target)
        if jnp.shape(target) != y.shape or not y.ndim or not y.shape[-1]:
            raise ValueError(
                "SoftmaxKLDivergence: expected y and target of one shape (..., C), "
                f"got {y.shape} and {jnp.shape(target)}"
            )
        wide = at_least_float32(y)
        target = jnp.asarray(target, wide.dtype)
        if self.probabilities:
            q, log_q = target, jnp.log(jnp.where(target == 0, 1, target))
        else:
            of_q = self._softmax(target, likeliest(target))
            q, log_q = of_q.p, of_q.z - of_q.log_total
        p = self._softmax(wide, likeliest(q))
        total = q.sum(-1, keepdims=True)
        log_p = p.z - p.log_total
        losses = self.temperature**2 * jnp.where(q == 0, 0, q * (log_q - log_p)).sum(-1)

        share = shares(self, weight, losses.shape, losses.dtype)
        row = share[..., None]
        slope = self.temperature * p.minus(q, total)
        dy = jnp.where(row == 0, 0, row * slope)
        return weighted_sum(share, losses), (), dy.astype(y.dtype)

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        # One row of classes alone, (C,), is one example.
        rows = jnp.zeros(jnp.shape(target)[:-1])
        return count_examples(self, rows) if weight is None else jnp.sum(weight)

    def _softmax(self, z: Array, is_k: Array) -> Softmax:
        """Returns softmax(z / T)."""
        # Shifted before it is divided: z / T may overflow.
        return softmax((z - z.max(-1, keepdims=True)) / self.temperature, is_k)
