"""The learn page: how networks learn, from one neuron to a small GPT, with pictures to move."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fbp.explainer._learn_fits import curve_fit, neuron_traces, spiral_fit
from fbp.explainer._learn_gpt import small_gpt
from fbp.explainer._page_file import filled

TITLE = "How a neural network learns"
STYLES = "page/colours.css", "learn/learn.css"
SCRIPTS = (
    "page/basics.js",
    *(
        f"learn/{name}.js"
        for name in (
            *("rules", "handles", "picture", "controls", "neuron", "descent", "chain", "worked"),
            *("gates", "loop", "drawings", "gpt", "start"),
        )
    ),
)
X, TARGET = 2.1, 4.0


def learn_page(
    title: str = TITLE, say: Callable[[str], None] = lambda line: None, steps: int = 500
) -> str:
    """Returns the page, which asks for nothing outside itself.

    Args:
      title: its heading.
      say: is told what is done, line by line.
      steps: of the training of the small GPT.
    """
    say("one neuron and two networks of two layers: the first steps, to compare with")
    x = jnp.float32(X)  # as the page should have it too
    data: dict[str, Any] = {
        "title": title,
        "neuron": {"x": float(x), "target": TARGET, "traces": neuron_traces(x, TARGET)},
        "fits": {"curve": curve_fit(), "spiral": spiral_fit()},
        "gpt": small_gpt(steps, say),
    }
    return filled("learn/learn.html", STYLES, SCRIPTS, data)
