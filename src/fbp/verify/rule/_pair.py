"""The results of one run of a rule and its reference."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.verify.program._dtypes import wide


class Pair(NamedTuple):
    """The results of one run: NumPy arrays in float64, or jax arrays while it is traced.

    Attributes:
      out: the float outputs of the function without its rules.
      grads: the reference gradients of the differentiable leaves; [] without reverse mode.
      rule_out: the same outputs from the rule's forward.
      rule_grads: the gradients from the rule.
      margin: how close the closest comparison is to a tie, relatively.
      exponent: the largest argument of an exponential.
      residual: how far the linear solves of the function and of the rule are from solving their
        equations, relatively.
    """

    out: list[Any]
    grads: list[Any]
    rule_out: list[Any]
    rule_grads: list[Any]
    margin: Any
    exponent: Any = 0.0
    residual: Any = 0.0


def to_numpy(pair: Pair) -> Pair:
    """The pair on the host, its arrays in float64."""
    pair = jax.device_get(pair)
    out, grads, rule_out, rule_grads = ([wide(np.asarray(a)) for a in part] for part in pair[:4])
    return Pair(out, grads, rule_out, rule_grads, *map(float, pair[4:]))
