"""What a norm computes on its way: mean, variance, the standardized x, and the gradient of that."""

from typing import Any

import numpy as np

from fbp.explainer._page_made import Made, agrees, wide
from fbp.explainer._traced import Pass
from fbp.layers import BatchNorm, FixedBatchNorm, GroupNorm, LayerNorm, RMSNorm

NORMS = LayerNorm, RMSNorm, BatchNorm, FixedBatchNorm, GroupNorm
# What is called u, g, r, w and b here has other names in the rules of norms of images.
OF_VECTORS = {"u": "u", "g": "g", "r": "r", "w": "w", "b": "b"}
OF_CHANNELS = {"u": "xhat", "g": "dxhat", "r": "rstd", "w": "scale", "b": "bias"}


def more_of_norm(layer: Any, one: Pass, steps: Any = ()) -> Made | None:
    """mean, var, r and u of a norm, and g with its means, in float64 from x, its params and dy.

    None where y does not come out as the step has it.
    """
    x, params = wide(one.x), one.params
    by_vector = isinstance(layer, LayerNorm | RMSNorm)
    names = OF_VECTORS if by_vector else OF_CHANNELS
    groups = layer.groups if isinstance(layer, GroupNorm) else 1
    split: tuple[int, ...] = x.shape
    axes = (-1,) if by_vector else tuple(range(x.ndim - 1))
    if isinstance(layer, GroupNorm):
        split, axes = (*x.shape[:-1], groups, x.shape[-1] // groups), (-4, -3, -1)

    def mean(a: np.ndarray) -> np.ndarray:
        return a.reshape(split).mean(axes, keepdims=True)

    def over(a: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        return np.broadcast_to(statistic, split).reshape(a.shape)

    fixed = isinstance(layer, FixedBatchNorm)
    middle = wide(params["mean"]) if fixed else 0.0 if isinstance(layer, RMSNorm) else mean(x)
    off = x - over(x, np.asarray(middle))
    var = wide(params["var"]) if fixed else mean(off**2)
    r = 1 / np.sqrt(var + layer.eps)
    u = off * over(x, r)
    w = wide(params[names["w"]])
    y = w * u + (wide(params[names["b"]]) if names["b"] in params else 0.0)
    if not agrees(one.y, y):
        return None
    kept = isinstance(layer, BatchNorm | GroupNorm)
    arrays = [(names["r"], "made", _flat(r, by_vector)), (names["u"], "made", u)]
    if not fixed and not kept:
        arrays.insert(0, ("var", "made", _flat(var, by_vector)))
        if not isinstance(layer, RMSNorm):
            arrays.insert(0, ("mean", "made", _flat(middle, by_vector)))
    if one.dy is not None:
        g = w * wide(one.dy)
        arrays.append((names["g"], "dmade", g))
        if not fixed:
            for name, a in (
                (f"mean({names['g']})", g),
                (f"mean({names['g']} {names['u']})", g * u),
            ):
                if not (isinstance(layer, RMSNorm) and a is g):
                    arrays.append((name, "dmade", _flat(mean(a), by_vector)))
    given = {
        "by": "vector" if by_vector else "group" if isinstance(layer, GroupNorm) else "channel",
        "groups": groups,
        "pixels": int(np.prod(x.shape[-3:-1])) if x.ndim >= 3 else 1,
        "eps": layer.eps,
        "names": names,
        "centred": not isinstance(layer, RMSNorm),
        "fixed": fixed,
    }
    if isinstance(layer, RMSNorm):
        arrays[0] = ("mean(x^2)", *arrays[0][1:])
    # Statistics that the layer keeps are the step's own.
    renamed = {"kept 0": "mean", "kept 1": "var"} if kept else {}
    what = (
        "What lies between x and y, and between dy and dx, the layer computes and does not keep: "
    )
    return Made(given, arrays, what + "it is computed here as the step does, in float64.", renamed)


def _flat(a: Any, by_vector: bool) -> np.ndarray:
    """Statistics: one number a row for vectors; else without the axes they are taken over."""
    a = np.asarray(a)
    return a if by_vector else a.reshape(-1)
