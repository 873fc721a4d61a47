"""How the page writes out the numbers of each kind of layer, and what it makes anew for that."""

from collections.abc import Callable
from typing import Any

from fbp._layer import Layer
from fbp.combinators import Recurrent, Residual
from fbp.explainer._page_attention import more_of_attention
from fbp.explainer._page_gates import more_of_gates
from fbp.explainer._page_made import Made
from fbp.explainer._page_norms import NORMS, more_of_norm
from fbp.explainer._page_pairs import more_of_rope
from fbp.explainer._page_windows import WINDOWS, more_of_window
from fbp.explainer._traced import Pass
from fbp.layers import (
    Attention,
    Bias,
    Dense,
    Embedding,
    Flatten,
    Gelu,
    LeakyRelu,
    LinearRecurrence,
    LogSoftmax,
    MergeHeads,
    Positions,
    Relu,
    Rope,
    Scale,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    SplitHeads,
    SwiGLU,
    Tanh,
    Unembed,
    Unflatten,
)

ELEMENTWISE = Relu, LeakyRelu, Gelu, Silu, Tanh, Sigmoid, Softplus
# Each kind has a maker of sums of its name in the page's script.
SUMS: tuple[tuple[Any, str], ...] = (
    (Dense, "dense"),
    (Unembed, "unembed"),
    (Scale, "scale"),
    (Bias, "bias"),
    (Embedding, "embedding"),
    (Positions, "positions"),
    ((SplitHeads, MergeHeads, Flatten, Unflatten), "moved"),
    (ELEMENTWISE, "local"),
    (Residual, "residual"),
    (Attention, "attention"),
    (NORMS, "norm"),
    (WINDOWS, "window"),
    (Recurrent, "gates"),
    (LinearRecurrence, "line"),
    (Rope, "rope"),
    (SwiGLU, "swiglu"),
    ((Softmax, LogSoftmax), "softmax_layer"),
)
# What a layer computes on its way, made again from its traced numbers: a maker for each kind.
MORE: dict[str, Callable[[Any, Pass, Any], Made | None]] = {
    "attention": more_of_attention,
    "norm": more_of_norm,
    "window": more_of_window,
    "gates": more_of_gates,
    "rope": more_of_rope,
    "softmax_layer": lambda layer, one, steps: Made({"log": isinstance(layer, LogSoftmax)}),
}
UNLIKE = (
    "Its numbers are not those of the sums that this page knows for such a layer: values alone."
)


def kind_of(layer: Layer, one: Pass, steps: Any) -> tuple[str, Made]:
    """The kind of a pass of a layer, "" if its values are shown alone, and what is made for it."""
    kind = next((name for of, name in SUMS if isinstance(layer, of)), "")
    if kind not in MORE:
        return kind, Made({})
    # Parameters are noted where a gradient comes through.
    if one.params is None and kind not in ("attention", "rope"):
        return "", Made({})
    made = MORE[kind](layer, one, steps)
    return (kind, made) if made else ("", Made({}, note=UNLIKE))
