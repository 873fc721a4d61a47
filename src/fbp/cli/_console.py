"""What a run shows: a live bar on a terminal, plain lines anywhere else."""

import sys
from types import TracebackType
from typing import Self


class Console:
    """Reports a run on standard output."""

    def __init__(self) -> None:
        self._bar = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
            )
            self._task = self._bar.add_task("", total=None, metrics="", visible=False)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Shows a line, or a table of several."""
        if self._bar:
            self._bar.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def progress(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Moves the bar, or prints a line."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar:
            self._bar.update(self._task, completed=step, total=steps, metrics=text, visible=True)
        else:
            print(f"step {step:>{len(str(steps))}}/{steps}  {text}", flush=True)

    @staticmethod
    def reached(metrics: dict[str, float]) -> str:
        """What a run came to, in a few words."""
        if "val_accuracy" in metrics:
            return f"{metrics['val_accuracy']:.2%} of the held-out examples right"
        if "accuracy" in metrics:
            return f"{metrics['accuracy']:.2%} of the examples right"
        name = "val_loss" if "val_loss" in metrics else "loss"
        return f"{'held-out loss' if name == 'val_loss' else 'loss'} {metrics[name]:.4g}"
