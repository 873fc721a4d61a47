"""How the window of a convolution or a pool slides, for the page to find which numbers meet."""

from typing import Any

import numpy as np

from fbp.explainer._page_made import Made
from fbp.explainer._traced import Pass
from fbp.layers import AvgPool2D, Conv1D, Conv2D, ConvTranspose2D, GlobalAvgPool2D, MaxPool2D
from fbp.layers._window import Slide, Window

WINDOWS = Conv2D, Conv1D, ConvTranspose2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D


def more_of_window(layer: Any, one: Pass, steps: Any = ()) -> Made:
    """How the window slides along each axis, from the positions of the smaller side to the pixels
    of the larger: of a transposed convolution, y is the larger."""
    turned = isinstance(layer, ConvTranspose2D)
    large: Any = np.asarray(one.y if turned else one.x)
    if isinstance(layer, GlobalAvgPool2D):
        slides = [Slide(n, n, n, 1, 0, 0) for n in large.shape[-3:-1]]
    elif isinstance(layer, MaxPool2D | AvgPool2D):
        stride = layer.size if layer.stride is None else layer.stride
        slides = list(Window(layer, layer.size, stride, layer.padding).over(large))
    else:
        slides = list(layer.window().over(large))
    what = "max" if isinstance(layer, MaxPool2D) else "mean"
    return Made(
        {
            "slides": [[s.n, s.k, s.s, s.d, s.lo, s.m] for s in slides],
            "turned": turned,
            "groups": getattr(layer, "groups", 1),
            "pools": what if "Pool" in type(layer).__name__ else "",
        }
    )
