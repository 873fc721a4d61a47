"""A row of the table of cases."""

import dataclasses
from collections.abc import Callable

import numpy as np

import fbp
from fbp._layer import PyTree


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and what to give it.

    Attributes:
      name: what a failing test is called.
      layer: the layer.
      x: the shape of its input, or a function that draws it.
      batch: how many leading axes of x are batch axes.
      noisy: whether a key changes what it computes.
      widens: whether bfloat16 x and float32 params widen x inside a `Residual` or a `Stack`, which
        refuse to change a dtype.
      notes: what the case is there for, where the name does not say it.
    """

    name: str
    layer: fbp.Layer
    x: tuple[int, ...] | Callable[[np.random.Generator], PyTree]
    batch: int = 1
    noisy: bool = False
    widens: bool = False
    notes: str = ""

    def __str__(self) -> str:
        return self.name
