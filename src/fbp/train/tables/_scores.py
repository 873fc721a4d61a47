"""How good predictions are: beside the best constant answer, in the target's units, by class."""

import dataclasses
from typing import Any

import numpy as np

from fbp.train.tables._cell import varied
from fbp.train.tables._encoding import Encoding


@dataclasses.dataclass(frozen=True)
class Scores:
    """The quality of predictions on some rows.

    Attributes:
      kind: "regression" or "classification".
      rows: how many.
      accuracy: of classes: the share of rows that are right.
      r2: of numbers: 1 - (mean squared error) / (the same, for the mean of these rows), where
        these rows differ.
      rmse: of numbers: the root of the mean squared error, in the target's units.
      constant: the best answer that is always the same: a label, or the mean.
      baseline: what that answer reaches: an accuracy, or a root mean squared error.
      recall: by class: the rows of it that are right, and all rows of it.
    """

    kind: str
    rows: int
    constant: str | float
    baseline: float
    accuracy: float | None = None
    r2: float | None = None
    rmse: float | None = None
    recall: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def better(self) -> bool:
        """Whether the predictions are better than the constant answer."""
        if self.accuracy is not None:
            return self.accuracy > self.baseline
        return self.rmse is not None and self.rmse < self.baseline

    def said(self, where: str) -> list[str]:
        """Lines to print.

        Args:
          where: which rows these are, such as "held out".
        """
        if self.kind == "regression":
            mean = varied(float(self.constant), self.baseline, 4)
            explained = "" if self.r2 is None else f"R2 {self.r2:.3f}, "
            lines = [
                f"{where}: {explained}root mean squared error {self.rmse:.4g} "
                f"(always {mean}, the mean: {self.baseline:.4g})"
            ]
        else:
            shown = [(k, n, m) for k, (n, m) in self.recall.items() if m]
            by_class = ", ".join(f"{k} {n} of {m}" for k, n, m in shown[:20])
            more = f" and {len(shown) - 20} more classes" if len(shown) > 20 else ""
            lines = [
                f"{where}: {self.accuracy:.2%} right (always {self.constant!r}: "
                f"{self.baseline:.2%}); by class: {by_class}{more}"
            ]
        if not self.better and self.rows > 1:
            lines.append(
                f"WARNING: {where}: no better than always answering {self.constant!r}"
                if self.kind == "classification"
                else f"WARNING: {where}: no better than always predicting the mean"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None and v != {}}


def scores(
    encoding: Encoding, y: np.ndarray, target: np.ndarray, train: np.ndarray | None = None
) -> Scores:
    """Compares a network's outputs with encoded targets.

    Args:
      encoding: of the table.
      y: the outputs (rows, outputs).
      target: as `encode_target` returns.
      train: the targets that the constant answer is chosen by; these ones if None.
    """
    by = target if train is None else train
    if encoding.kind == "regression":
        error = (y[:, 0].astype(np.float64) - target[:, 0]) * encoding.scale
        units = target[:, 0].astype(np.float64) * encoding.scale
        constant = float(by[:, 0].astype(np.float64).mean() * encoding.scale)
        mse, spread = (error**2).mean(), ((units - units.mean()) ** 2).mean()
        r2 = float(1 - mse / spread) if np.ptp(target) else None
        return Scores(
            "regression",
            len(target),
            constant + encoding.offset,
            float(np.sqrt(((units - constant) ** 2).mean())),
            r2=r2,
            rmse=float(np.sqrt(mse)),
        )
    answers = y.argmax(-1)
    most = int(np.bincount(by).argmax())
    recall = {
        label: (int(((answers == i) & (target == i)).sum()), int((target == i).sum()))
        for i, label in enumerate(encoding.classes)
    }
    return Scores(
        "classification",
        len(target),
        encoding.classes[most],
        float((target == most).mean()),
        accuracy=float((answers == target).mean()),
        recall=recall,
    )
