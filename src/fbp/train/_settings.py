"""What the user may choose of a run, and what of it may change where the run goes on."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fbp._errors import InputError


class Reporter(Protocol):
    """Receives the output of a run."""

    def say(self, text: str) -> None:
        """Shows a line."""

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Shows a table; the first row is its header."""

    def progress(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Shows the current step and its metrics."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that the user may choose; None takes the task's, or those of the resumed run.

    Attributes:
      name: of the run's folder; by default the task's.
      steps, batch, seed, lr: of the training.
      check: whether the gradients are compared with jax.grad first.
      runs: where the runs' folders are.
      eval_every: steps between evaluations.
      eval_seconds: seconds between evaluations, instead of steps.
      save_every: seconds between checkpoints; 0 saves only when the run ends.
      keep: how many of the newest checkpoints are kept.
      resume: the folder of a run to go on with.
      recipe: what of the task's `Recipe` is another, by name.
      accumulate: parts that a batch is taken in, one after another.
      bf16: whether the arithmetic is in bfloat16; the parameters stay as they are.
      in_backward: whether the optimizer runs inside the backward pass.
      patience: evaluations without a better one after which the run ends.
      max_time: seconds after which it ends.
      overfit_batches: train on the batches of the first steps again and again, to see whether the
        model can learn them.
      mesh: the devices to train on, as "data=4,fsdp=2"; None takes the first.
      track: where metrics go beside metrics.jsonl: tensorboard or wandb.
      command: what config.json notes of the command line.
      if_taken: what the user may do where there is a folder of that name already.
    """

    name: str | None = None
    steps: int | None = None
    batch: int | None = None
    seed: int | None = None
    lr: float | None = None
    check: bool = True
    runs: Path = Path("runs")
    eval_every: int | None = None
    eval_seconds: float | None = None
    save_every: float = 60.0
    keep: int = 2
    resume: Path | None = None
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    accumulate: int = 1
    bf16: bool = False
    in_backward: bool = False
    patience: int | None = None
    max_time: float = math.inf
    overfit_batches: int | None = None
    track: str | None = None
    command: dict[str, Any] = dataclasses.field(default_factory=dict)
    mesh: str | None = None
    if_taken: str = "choose another --name"

    def __post_init__(self) -> None:
        counts = ["steps", "batch", "eval_every", "keep", "accumulate", "patience"]
        counts.append("overfit_batches")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise InputError(f"expected --{flag} to be 1 or more, got {value}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise InputError(f"expected --seed to be from 0 to {2**32 - 1}, got {self.seed}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"expected --lr to be a positive number, got {self.lr}")
        if self.eval_seconds is not None and not self.eval_seconds > 0:
            raise InputError(f"expected --eval-seconds to be above 0, got {self.eval_seconds}")
        if self.eval_seconds is not None and self.eval_every is not None:
            raise InputError("expected --eval-every or --eval-seconds, got both")
        if not self.max_time > 0:
            raise InputError(f"expected --max-time to be above 0, got {self.max_time}")
        if not self.save_every >= 0:
            raise InputError(f"expected --save-every to be 0 or more, got {self.save_every}")
