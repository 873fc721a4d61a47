"""Where metrics go beside `metrics.jsonl`: TensorBoard, or Weights & Biases."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from fbp._errors import InputError
from fbp.train._run import Run

TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Receives the metrics of a run."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Receives the metrics of an evaluation."""

    def close(self) -> None:
        """Is called when the run ends."""


class TensorBoard:
    """Writes event files into `tensorboard/` of the run's folder."""

    def __init__(self, run: Run, config: dict[str, Any]):
        del config
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise InputError(
                "--track tensorboard needs its extra: pip install 'fbp[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Logs to Weights & Biases, as its own settings say; a run that goes on is the same run."""

    def __init__(self, run: Run, config: dict[str, Any]):
        try:
            import wandb
        except ModuleNotFoundError:
            raise InputError("--track wandb needs it: pip install wandb") from None
        where = str(run.folder.resolve()).encode()
        known_as = f"{run.folder.name}-{hashlib.sha256(where).hexdigest()[:8]}"
        self._run = wandb.init(
            name=run.folder.name, id=known_as, dir=run.folder, config=config, resume="allow"
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


class Tracked:
    """A run's log, and a tracker beside it whose trouble costs no run: it is said, once."""

    def __init__(
        self, run: Run, name: str | None, config: dict[str, Any], say: Callable[[str], None]
    ):
        self._run, self._say = run, say
        self._tracker: Tracker | None = None
        if name is not None:
            kinds: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
            if name not in kinds:
                raise InputError(f"expected --track to be one of {', '.join(TRACKERS)}, got {name}")
            self._try(lambda: self._begin(kinds[name](run, config)))

    def _begin(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl, and tells the tracker."""
        self._run.log(step, metrics)
        if self._tracker is not None:
            self._try(functools.partial(self._tracker.log, step, metrics))

    def close(self) -> None:
        """Ends the tracker."""
        if self._tracker is not None:
            self._try(self._tracker.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except InputError:
            raise
        except Exception as error:
            self._tracker = None
            lines = str(error).splitlines() or [repr(error)]
            self._say(f"no longer tracked: {lines[0]}")
