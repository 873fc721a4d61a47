"""What a run has reached: its best evaluation, when to stop early, and whether it diverges."""

import dataclasses
import math

from fbp._errors import InputError

Metrics = dict[str, float]

# A loss this many times the first one's size above the best, at this many evaluations in a row, is
# not going to come back.
FAR, IN_A_ROW = 10.0, 3


@dataclasses.dataclass(frozen=True)
class Watch:
    """The evaluations of a run, as far as they decide something.

    Attributes:
      name: the metric that is watched; lower is better. None, until the first evaluation, is
        val_loss where there is one, or else loss.
      usual: a size of the metric that is not far: where training begins near 0, ten times the first
        one is near 0 too.
      patience: after this many evaluations without a better one the run ends; None is never.
      first: the metric of the first evaluation.
      best: the lowest one so far.
      best_step: the step of that.
      since: how many evaluations ago that was.
      far: how many evaluations in a row have been far above it.
    """

    name: str | None = None
    patience: int | None = None
    usual: float = 0.0
    first: float = math.nan
    best: float = math.inf
    best_step: int = -1
    since: int = 0
    far: int = 0

    def seen(self, step: int, metrics: Metrics) -> "Watch":
        """The same after one more evaluation."""
        name = self.name or ("val_loss" if "val_loss" in metrics else "loss")
        if name not in metrics:
            raise InputError(f"expected to watch one of {', '.join(metrics)}, got {name}")
        value = metrics[name]
        first = value if self.best_step < 0 else self.first
        if value < self.best:
            return Watch(name, self.patience, self.usual, first, best=value, best_step=step)
        size = max(abs(first), abs(self.best), first - self.best, self.usual)
        far = self.far + 1 if value - self.best > FAR * size else 0
        return dataclasses.replace(self, since=self.since + 1, far=far)

    @property
    def is_patient(self) -> bool:
        return self.patience is None or self.since < self.patience

    @property
    def diverges(self) -> bool:
        return self.far >= IN_A_ROW
