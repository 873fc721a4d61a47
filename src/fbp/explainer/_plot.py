"""Pictures of an explanation: the gradient on its way back, and what attention looks at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fbp._errors import InputError
from fbp._picture import BLUE, GREY, ORANGE, Panel, Picture, plain, side_by_side
from fbp.explainer._page_attention import more_of_attention
from fbp.explainer._text import leaves_of, place_of, rms
from fbp.explainer._traced import TracedStep
from fbp.layers import Attention

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More names than that have no room beside one another, and more heads none on a page.
MOST_NAMES, MOST_TOKENS, MOST_HEADS = 80, 40, 48


def plot_gradients(explanation: TracedStep, title: str = "") -> Picture:
    """The size of each layer's y, dy and parameters' gradient, root mean squares on a log scale;
    the input above, the loss below."""
    found = [
        (place_of(layer, i), rms(one.y), rms(one.dy), rms(one.dparams))
        for layer, i, one in leaves_of(explanation)
    ]
    names, *sizes = zip(*found, strict=True)
    kinds = (("y, forward", GREY, "o"), ("dy, backward", BLUE, "o"), ("dparams", ORANGE, "D"))

    def draw(ax: "Axes") -> None:
        for (label, colour, marker), size in zip(kinds, sizes, strict=True):
            there = [(value, i) for i, value in enumerate(size) if value]
            if not there:
                continue
            x, y = zip(*there, strict=True)
            style = "" if label == "dparams" else "-"
            ax.plot(x, y, label=label, color=colour, marker=marker, ms=4, lw=1, ls=style)
        ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5), xlabel="root mean square")
        ax.set_title("one step, layer by layer", fontsize="medium")
        if len(names) <= MOST_NAMES:
            ax.set_yticks(range(len(names)), [plain(n) for n in names], fontsize="x-small")
        ax.grid(axis="x", color="#dddddd", lw=0.5)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))

    height = 1.6 + 0.17 * min(len(names), MOST_NAMES)
    return side_by_side(title, [draw], (7.0, height))


def plot_attention(explanation: TracedStep, title: str = "", tokens: Sequence[str] = ()) -> Picture:
    """What each query of the first example looks at, p = softmax(s): a panel for each head.

    Raises:
      InputError: there is no attention in the model.
    """
    panels: list[Panel] = []
    for layer, i, one in leaves_of(explanation):
        made = more_of_attention(layer.layer, one) if isinstance(layer.layer, Attention) else None
        if made is None:
            continue
        p = next(array for name, _, array in made.arrays if name == "p")
        p = p.reshape(-1, *p.shape[-3:])[0]  # of the first example: (T, heads, S)
        for head in range(p.shape[1]):
            panels.append(_head(f"{place_of(layer, i)}, head {head}", p[:, head], tokens))
    if not panels:
        raise InputError("expected a model with Attention to draw what it looks at, got none in it")
    left = len(panels) - MOST_HEADS
    more = f", the first {MOST_HEADS} of {len(panels)} heads" if left > 0 else ""
    said = f"{title}: what each query (row) looks at{more}".removeprefix(": ")
    return side_by_side(said, panels[:MOST_HEADS], (3.2, 3.2), columns=4)


def _head(title: str, p: np.ndarray, tokens: Sequence[str]) -> Panel:
    def draw(ax: "Axes") -> None:
        ax.imshow(p, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(plain(title), fontsize="x-small")
        if len(tokens) > max(p.shape) and max(p.shape) <= MOST_TOKENS:
            names = [plain(repr(token)[1:-1].replace(" ", "␣")) for token in tokens]
            ax.set_xticks(range(p.shape[1]), names[: p.shape[1]], rotation=90, fontsize=5)
            ax.set_yticks(range(p.shape[0]), names[: p.shape[0]], fontsize=5)
        else:
            ax.set(xlabel="key", ylabel="query")

    return draw
