"""The softmax of a row of logits, to all digits where one class has nearly all of it."""

from typing import NamedTuple

import jax.numpy as jnp

from fbp._layer import Array


class Softmax(NamedTuple):
    """p = softmax(z), beside a class k of which 1 - p is known to all digits too.

        e     = exp(z - max z),   s = (e_k - 1) + sum of the others' e      e_k is 1 if k leads
        p     = e / (1 + s)
        log p = (z - max z) - log(1 + s)
        1 - p = sum of the others' e / (1 + s)      of k: where p_k is near 1, 1 - p_k would cancel

    Attributes:
      p: probabilities (..., C).
      z: the logits (..., C), of which the largest is 0.
      log_total: log(1 + s) (..., 1).
      is_k: which class k is (..., C).
      rest: 1 - p of k (..., 1).
    """

    p: Array
    z: Array
    log_total: Array
    is_k: Array
    rest: Array

    def minus(self, q: Array, total: Array) -> Array:
        """p total - q, where the q of a row add up to `total`: the gradient of a cross-entropy."""
        return jnp.where(self.is_k, (total - q) - total * self.rest, self.p * total - q)


def softmax(z: Array, is_k: Array) -> Softmax:
    """The softmax over the last axis. Logits of -inf, as of padding, have p = 0."""
    z = z - z.max(-1, keepdims=True)
    e = jnp.exp(z)
    own = jnp.where(is_k, e, 0).sum(-1, keepdims=True)
    others = jnp.where(is_k, 0, e).sum(-1, keepdims=True)
    s = (own - 1) + others
    return Softmax(e / (1 + s), z, jnp.log1p(s), is_k, others / (1 + s))


def likeliest(q: Array) -> Array:
    """Which class of each row has the largest part of a distribution, one of equal ones."""
    return jnp.arange(q.shape[-1]) == q.argmax(-1)[..., None]
