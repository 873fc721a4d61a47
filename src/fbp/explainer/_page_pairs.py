"""The cosines and sines by which `Rope` turns pairs of numbers, as its own rule has them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp.explainer._page_made import Made
from fbp.explainer._traced import Pass
from fbp.layers import Rope


def more_of_rope(layer: Rope, one: Pass, steps: Any = ()) -> Made:
    """cos and sin of each place and pair: what becomes of the pair (1, 0)."""
    places, _, size = np.shape(one.x[0])[-3:]
    pairs = jnp.zeros((places, 1, size)).at[..., : size // 2].set(1)
    turned = np.asarray(layer.forward((), (pairs, pairs, pairs))[0][0])[:, 0]
    cos, sin = np.split(turned, 2, -1)
    return Made({}, [("cos", "made", cos), ("sin", "made", sin)])
