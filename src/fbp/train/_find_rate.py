"""Which learning rate to take: a short run whose rate grows from far too small to too large."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fbp._errors import InputError
from fbp._picture import BLUE, ORANGE, Picture, side_by_side
from fbp.step._step import state_of
from fbp.train._learnable import learnable
from fbp.train._loop import first_of
from fbp.train._steps import Steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A loss this many times the lowest one ends the search.
TOO_FAR = 4.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was found.

    Attributes:
      rates, losses: of each step.
      smooth: the losses, averaged over the last steps.
      suggested: a tenth of the rate where the loss is lowest: there it is about to grow.
    """

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    suggested: float


def find_rate(
    task: Any,
    *,
    batch: int | None = None,
    seed: int = 0,
    optimizer: str | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 200,
) -> Rates:
    """Trains with a rate that grows from `low` to `high`, until the loss goes up.

    Nothing is kept of the training.

    Raises:
      InputError: the loss never falls, or a setting cannot be used.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.
    """
    if not 0 < low < high < math.inf:
        raise InputError(f"expected rates 0 < --low < --high, got {low} and {high}")
    if steps < 20:
        raise InputError(f"expected --steps to be 20 or more, got {steps}")
    objective, params, draw, recipe = learnable(task, batch, seed)
    if optimizer is not None and optimizer != recipe.optimizer:
        recipe = dataclasses.replace(recipe, optimizer=optimizer, options={}, weight_decay=None)
    growth = math.log(high / low) / (steps - 1)
    made = recipe.with_rate(lambda step: low * jax.numpy.exp(growth * step))
    state = state_of(params, made)
    del params
    key = jax.random.fold_in(jax.random.key(seed), 1)
    run = Steps(objective, made, state, first_of(draw), key, most=10)
    losses: list[float] = []
    while len(losses) < steps:
        at = len(losses)
        taken = run.start(state, at, draw(at, min(at + run.most, steps)))()
        state = taken.state
        losses += [float(loss) for loss in taken.losses if math.isfinite(loss)]
        smooth = _smooth(np.array(losses)) if losses else np.zeros(0)
        if not taken.good or (len(smooth) and smooth[-1] > _limit(smooth)):
            break
    rates = low * np.exp(growth * np.arange(len(losses)))
    return Rates(rates, np.array(losses), smooth, _suggested(rates, smooth))


def draw_rates(found: Rates) -> Picture:
    """A picture of the loss over the rate."""

    def panel(ax: "Axes") -> None:
        ax.plot(found.rates, found.losses, color="#c8c8c8", lw=0.8)
        ax.plot(found.rates, found.smooth, color=BLUE)
        ax.axvline(found.suggested, color=ORANGE, label=f"{found.suggested:.2g}")
        shown = found.smooth[np.isfinite(found.smooth)]
        room = 0.1 * float(np.ptp(shown)) or 1.0
        ax.set(xscale="log", xlabel="learning rate", title="loss", ylim=(shown.min() - room, None))
        ax.legend(frameon=False)

    return side_by_side("learning rate", [panel])


def _smooth(losses: np.ndarray, weight: float = 0.9) -> np.ndarray:
    """A moving average, which forgets, of as many losses as there are."""
    total = count = 0.0
    found = []
    for loss in losses:
        total, count = weight * total + loss, weight * count + 1
        found.append(total / count)
    return np.array(found)


def _limit(smooth: np.ndarray) -> float:
    least, first = float(smooth.min()), float(smooth[0])
    return least + TOO_FAR * max(abs(least), abs(first - least), 1e-12)


def _suggested(rates: np.ndarray, smooth: np.ndarray) -> float:
    lowest = int(smooth.argmin()) if len(smooth) else 0
    if lowest < 5:  # the average is still of few
        raise InputError(
            "the loss falls at no rate: give more --steps or a lower --low; a network on a table "
            "begins at the best linear model, below which there may be little"
        )
    return float(rates[lowest]) / 10
