"""One number of a gradient written out as the sum that made it."""

from typing import Any

import numpy as np

from fbp._layer import Layer
from fbp.explainer._traced import Pass, TracedLoss
from fbp.layers import Bias, Dense, Scale, Unembed
from fbp.losses import MeanSquaredError

# The terms of a sum that are shown, the largest ones.
MOST = 4


def written(layer: Layer, one: Pass, what: str, index: tuple[int, ...]) -> str | None:
    """How an element of y, dx, or a parameter's gradient, as "dw", came about; None where this is
    not one sum of products.

    `index` counts examples, or places, in one axis: y and dx are (places, width).
    """
    terms = _terms(layer, one, what, index)
    if terms is None:
        return None
    value = sum(float(np.prod(factors)) for factors in terms)
    terms = sorted(terms, key=lambda factors: -abs(float(np.prod(factors))))
    shown = [" * ".join(map(number, factors)) for factors in terms[:MOST]]
    more = [f"{len(terms) - MOST} smaller ones"] if len(terms) > MOST else []
    if len(terms) == 1 and len(terms[0]) == 1:
        return plain(value)
    return f"{' + '.join(shown + more)} = {plain(value)}"


def written_loss(loss: TracedLoss) -> dict[str, str]:
    """The value and dy of a loss of one number, written out."""
    y, target = (float(np.asarray(a).reshape(())) for a in (loss.y, loss.target))
    value, dy = (float(np.asarray(a).reshape(())) for a in (loss.value, loss.dy))
    if isinstance(loss.loss, MeanSquaredError):
        return {
            "loss": f"({plain(y)} - {number(target)})^2 = {plain(value)}",
            "dy": f"2 * ({plain(y)} - {number(target)}) = {plain(dy)}",
        }
    return {"loss": plain(value), "dy": plain(dy)}


def plain(value: Any) -> str:
    """A number for people, to six digits at most."""
    return f"{float(value):.6g}"


def number(value: Any) -> str:
    """The same as a factor or a term."""
    return f"({plain(value)})" if float(value) < 0 else plain(value)


def _terms(
    layer: Layer, one: Pass, what: str, index: tuple[int, ...]
) -> list[tuple[float, ...]] | None:
    """The products whose sum it is, each as its factors."""
    x, dy = _rows(one.x), _rows(one.dy)
    p: Any = one.params
    if isinstance(layer, Scale | Bias):
        *place, i = index
        w = np.asarray(p).reshape(-1)[i]
        scales = isinstance(layer, Scale)
        if what == "y":
            t = place[0]
            return [(w, x[t, i])] if scales else [(x[t, i],), (w,)]
        if what == "dx":
            return [(dy[place[0], i], w)] if scales else [(dy[place[0], i],)]
        return [(d, a) if scales else (d,) for d, a in zip(dy[:, i], x[:, i], strict=True)]
    if isinstance(layer, Dense | Unembed):
        w = np.asarray(p["w"])
        w = w.T if isinstance(layer, Unembed) else w
        t, i = index[0], index[-1]
        if what == "y":
            bias = [(p["b"][i],)] if "b" in p else []
            return [*zip(x[t], w[:, i], strict=True), *bias]
        if what == "dx":
            return list(zip(dy[t], w[i], strict=True))
        if what == "db":
            return [(d,) for d in dy[:, i]]
        row, column = index if isinstance(layer, Dense) else index[::-1]
        return list(zip(x[:, row], dy[:, column], strict=True))
    return None


def _rows(a: Any) -> np.ndarray:
    """An array as (places, width)."""
    a = np.asarray(a)
    return a.reshape(-1, a.shape[-1] if a.ndim else 1)
