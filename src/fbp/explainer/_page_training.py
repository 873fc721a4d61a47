"""What a page says of the whole run that a step is of."""

from typing import Any

import numpy as np

from fbp.explainer._training import Curve, OverTraining, Regions, Samples

# The most lines of the log that are drawn.
LINES = 400
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def training_of(over: OverTraining) -> dict[str, Any]:
    """The data of the part "Over training"."""
    every = -(-len(over.logged) // LINES)
    kept = [line for i, line in enumerate(over.logged) if i % max(every, 1) == 0]
    if over.logged and kept[-1] is not over.logged[-1]:
        kept.append(over.logged[-1])
    return {
        "steps": list(over.steps),
        "there": over.there,
        "logged": [[n, _short(loss), _short(held_out)] for n, loss, held_out in kept],
        "values": _list(over.values),
        "names": list(over.names),
        "gradients": [_list(row) for row in over.gradients.T],
        "changes": [_list(row) for row in over.changes.T],
        "answers": _answers(over.answers),
        "explained": over.explained,
    }


def _answers(answers: Regions | Curve | Samples | None) -> dict[str, Any] | None:
    if isinstance(answers, Regions):
        return {
            "kind": "regions",
            "names": list(answers.names),
            "low": _list(np.array(answers.low)),
            "high": _list(np.array(answers.high)),
            "target": answers.target,
            "classes": list(answers.classes),
            "side": answers.grids.shape[1],
            # A letter for each place.
            "grids": ["".join(DIGITS[k] for k in grid.ravel()) for grid in answers.grids],
            "points": [_list(point) for point in answers.points],
            "labels": answers.labels.tolist(),
        }
    if isinstance(answers, Curve):
        return {
            "kind": "curve",
            "names": list(answers.names),
            "x": _list(answers.x),
            "y": [_list(y) for y in answers.y],
            "points": [_list(point) for point in answers.points],
        }
    if isinstance(answers, Samples):
        texts = list(answers.texts)
        return {"kind": "samples", "prompt": answers.prompt, "at": list(answers.at), "texts": texts}
    return None


def _list(a: np.ndarray) -> list[float | None]:
    return [_short(v) for v in a.tolist()]


def _short(value: float | None) -> float | None:
    """Four digits; None of what is no number."""
    return float(f"{value:.4g}") if value is not None and np.isfinite(value) else None
