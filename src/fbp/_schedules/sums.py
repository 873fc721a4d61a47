"""What attention keeps of its scores."""

from typing import NamedTuple

from fbp._layer import Array


class Sums(NamedTuple):
    """What is kept of each query's scores, from which p = exp(s - top) * part.

    Attributes:
      top: the largest score, (..., G, T R); inf if the query sees no key.
      part: 1 / sum exp(s - top), (..., G, T R).
    """

    top: Array
    part: Array
