"""fbp's own rules for trees: graphs, layers on parts, losses on parts, each with its arguments."""

from typing import Any

import numpy as np

from fbp._layer import Layer, Loss
from fbp.combinators import Add, Concat, Each, Graph, On, Pick, Repeat
from fbp.layers import Dense, Embedding, Tanh
from fbp.losses import (
    CTC,
    Contrastive,
    Losses,
    MeanSquaredError,
    NormalKLDivergence,
    Quantile,
    SoftmaxCrossEntropy,
    SoftmaxKLDivergence,
    Triplet,
)

# Rows, widths, vocabulary, frames: all different, so that no two axes can be confused.
_N, _A, _B, _V, _T = 7, 3, 2, 5, 6


def tree_layers() -> dict[str, tuple[Layer, Any]]:
    """Layers of trees, each with an input x."""
    ids = np.arange(_N, dtype=np.int32) % _V
    two = {"a": _floats(0, _N, _A), "b": _floats(1, _N, _B)}
    same = _floats(0, _N, _A), _floats(1, _N, _A)
    graph = Graph(
        ("a", "b"),
        wide=(Dense(_A, _V), "a"),
        act=(Tanh(), "wide"),
        joined=(Concat(), ("act", "b", "wide")),
        y=(Dense(2 * _V + _B, _A), "joined"),
        out=(Add(), ("y", "a")),
        output={"out": "out", "wide": "wide"},
    )
    shared = Graph(("a", "b"), a_=(Dense(_A, _B), "a"), b_=("a_", "b"), output=("a_", "b_"))
    return {
        "Graph": (graph, two),
        "Graph that shares": (shared, same),
        "Each": (Each(a=Dense(_A, _B), ids=Embedding(_V, _A)), {"a": same[0], "ids": ids}),
        "On": (On("a", Dense(_A, _B)), {"a": same[0], "ids": ids}),
        "Pick": (Pick("a"), {"a": same[0], "ids": ids}),
        "Concat": (Concat(), two),
        "Add": (Add(), same),
        "Repeat": (Repeat(Dense(_A, _A), 3), same[0]),
    }


def tree_losses() -> dict[str, tuple[Loss, Any, Any]]:
    """Losses of trees and sequences, each with y and a target."""
    labels = np.arange(_N, dtype=np.int32) % _V
    y, z, w = (_floats(seed, _N, _V) for seed in range(3))
    moments = {"mean": y, "log_var": z}
    spelled = {"labels": np.asarray([[1, 2], [3, 3]], np.int32)}
    several = Losses(cls=(1.0, SoftmaxCrossEntropy()), reg=(0.5, MeanSquaredError()))
    return {
        "Losses": (several, {"cls": y, "reg": z}, {"cls": labels, "reg": w}),
        "Quantile": (Quantile(0.2), y, z),
        "NormalKLDivergence": (NormalKLDivergence(), moments, y),
        "SoftmaxKLDivergence": (SoftmaxKLDivergence(temperature=2.0), y, z),
        "Contrastive": (Contrastive(), {"a": y, "b": z}, None),
        "Triplet": (Triplet(), {"anchor": y, "positive": z, "negative": w}, y),
        "CTC": (CTC(), _floats(0, 2, _T, _V), spelled),
    }


def _floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
