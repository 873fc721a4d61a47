"""What one run of both programs gives."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.verify.program._dtypes import wide


class Pair(NamedTuple):
    """What one run gives: arrays of NumPy, in float64; while it is traced, of jax.

    Attributes:
      out: the outputs with floats, by the function without its rules.
      grads: the reference gradients of the differentiable leaves; [] where autodiff has none.
      rule_out: the same outputs as the rule's forward gives them.
      rule_grads: the gradients by the rule.
      margin: how near a comparison is to a tie, relatively.
      exponent: the largest argument of an exponential.
    """

    out: list[Any]
    grads: list[Any]
    rule_out: list[Any]
    rule_grads: list[Any]
    margin: Any
    exponent: Any = 0.0


def to_numpy(pair: Pair) -> Pair:
    """The pair on the host, its arrays in float64."""
    pair = jax.device_get(pair)
    out, grads, rule_out, rule_grads = ([wide(np.asarray(a)) for a in part] for part in pair[:4])
    return Pair(out, grads, rule_out, rule_grads, float(pair.margin), float(pair.exponent))
