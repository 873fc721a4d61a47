"""Pictures of a table's answers on rows that were held out: predicted beside actual."""

from typing import TYPE_CHECKING

import numpy as np

from fbp._picture import BLUE, GREY, plain
from fbp.train.tables._encoding import Encoding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More classes than that have no room for their names.
MOST_NAMES = 25


def draw_predicted(ax: "Axes", encoding: Encoding, y: np.ndarray, target: np.ndarray) -> None:
    """Predicted over actual numbers; on the diagonal they are equal."""
    actual = encoding.decode(target)["prediction"]
    predicted = encoding.decode(y)["prediction"]
    low = min(actual.min(), predicted.min())
    high = max(actual.max(), predicted.max())
    if high > low:
        ax.plot((low, high), (low, high), color=GREY, linewidth=1)
    ax.scatter(actual, predicted, s=8, color=BLUE, alpha=0.6, linewidths=0)
    name = plain(encoding.target)
    ax.set(title="held out", xlabel=f"{name}, actual", ylabel=f"{name}, predicted")


def draw_confusion(ax: "Axes", encoding: Encoding, y: np.ndarray, target: np.ndarray) -> None:
    """For each class, the share of its rows that was taken for each class."""
    n = len(encoding.classes)
    counts = np.zeros((n, n))
    np.add.at(counts, (target, y.argmax(-1)), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if n <= MOST_NAMES:
        short = [label if len(label) <= 12 else label[:11] + "…" for label in encoding.classes]
        names = [plain(label) for label in short]
        ax.set_xticks(range(n), names, rotation=90, fontsize="small")
        ax.set_yticks(range(n), names, fontsize="small")
    if n <= 12:
        for i, j in np.ndindex(n, n):
            color = "white" if share[i, j] > 0.5 else "black"
            ax.text(j, i, f"{counts[i, j]:g}", ha="center", va="center", color=color, fontsize=8)
    ax.set(title="held out", xlabel="predicted", ylabel=f"{plain(encoding.target)}, actual")
