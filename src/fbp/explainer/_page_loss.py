"""What a page says of a loss beyond its arrays: p - q, and the loss of each row."""

from typing import Any

import numpy as np

from fbp.explainer._traced import TracedLoss
from fbp.losses import MeanSquaredError, SoftmaxCrossEntropy, UnembedCrossEntropy

# The rows of a loss that are listed.
MOST = 256


def more_of_loss(loss: TracedLoss) -> tuple[str, list[tuple[str, str, np.ndarray]], list[Any]]:
    """How its numbers are written out, further arrays as (name, side, array), and its rows.

    A row is [label, p of the label, its loss, the likeliest label, its p].
    """
    of, target = loss.loss, loss.target
    if not (hasattr(target, "dtype") and hasattr(loss.y, "dtype")):
        return "", [], []
    if isinstance(of, MeanSquaredError):
        alike = np.shape(loss.y) == np.shape(target)
        return "mse" if alike else "", [], []
    is_label = np.issubdtype(target.dtype, np.integer)
    if isinstance(of, SoftmaxCrossEntropy) and is_label:
        z = _rows(loss.y)
    elif isinstance(of, UnembedCrossEntropy):
        z = _rows(loss.y) @ np.asarray(loss.params["w"], np.float64)[: of.n].T
        if of.softcap is not None:
            z = of.softcap * np.tanh(z / of.softcap)
    else:
        return "", [], []
    labels = np.asarray(target).reshape(-1)
    n, classes = z.shape
    if len(labels) != n:
        return "", [], []
    top = z.max(-1, keepdims=True)
    e = np.exp(z - top)
    p = e / e.sum(-1, keepdims=True)
    counts = labels != of.ignore if of.ignore is not None else np.ones(n, bool)
    smooth = of.label_smoothing
    q = np.full((n, classes), smooth / classes)
    q[np.arange(n)[counts], labels[counts]] += 1 - smooth
    with np.errstate(divide="ignore"):
        each = -(q * (z - top - np.log(e.sum(-1, keepdims=True)))).sum(-1)
    share = counts / max(counts.sum(), 1)
    arrays = [("p - q", "p - q", np.where(counts[:, None], p - q, 0.0))]
    arrays.append(("1/n", "1/n", share[:, None]))
    kind = "softmax"
    if isinstance(of, UnembedCrossEntropy):
        kind = "" if of.softcap is not None or of.z_loss else "fused"
        arrays = [("z", "z", z), *arrays]
        if kind:
            arrays.append(("dz", "dz", share[:, None] * (p - q)))
    best = p.argmax(-1)
    rows = [
        [
            int(labels[i]),
            _finite(p[i, labels[i]]) if counts[i] else None,
            _finite(each[i]) if counts[i] else None,
            int(best[i]),
            _finite(p[i, best[i]]),
        ]
        for i in range(min(n, MOST))
    ]
    return kind, arrays, rows


def _rows(a: Any) -> np.ndarray:
    a = np.asarray(a).astype(np.float64)
    return a.reshape(-1, a.shape[-1])


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
