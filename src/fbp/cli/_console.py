"""Shows the progress of a run: a live bar on a terminal, plain lines anywhere else."""

import contextlib
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from fbp._columns import align, is_number
from fbp._errors import LOUD

_STYLES = {"ok": "green", "WRONG": "bold red", "recomputed": "cyan"}


class Console:
    """Reports a run on standard output."""

    def __init__(self) -> None:
        self._bar = None
        self._is_counting = False
        if sys.stdout is not None and sys.stdout.isatty():
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

    def ended_by(self, signum: int, said: str = "") -> None:
        """Shows that a signal ends the process, and leaves the terminal as it was."""
        from fbp._signals import name_of_signal

        if self._bar:
            self._bar.stop()
        self._stop_counting()
        print(f"fbp: stopped by {name_of_signal(signum)}{said}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

    def say(self, text: str) -> None:
        """Shows a line."""
        if self._bar:
            style = "bold yellow" if text.startswith(LOUD) else None
            self._bar.console.print(
                text, style=style, markup=False, highlight=False, soft_wrap=True
            )
        else:
            _print(text)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Shows a table; the first row is the header."""
        if not self._bar:
            _print(align(rows))
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in zip(*rows, strict=True):
            right = all(map(is_number, column[1:]))
            table.add_column(column[0], justify="right" if right else "left")
        for row in rows[1:]:
            table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
        self._bar.console.print(table)

    def counting(self, what: str, done: int, whole: int) -> None:
        """On a terminal, shows how much of a long preparation is done."""
        if not self._bar or done >= whole:
            self._stop_counting()
            return
        self._is_counting = True
        print(f"\r\x1b[K{what} {done / whole:.0%}", end="", flush=True)

    def _stop_counting(self) -> None:
        if self._is_counting:
            self._is_counting = False
            print("\r\x1b[K", end="", flush=True)

    def progress(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Moves the bar, or prints a line."""
        if self._bar:
            # Two numbers fit on a narrow terminal: the loss and the last metric.
            shown = {"loss": metrics["loss"], **dict(list(metrics.items())[-1:])}
            self._bar.update(
                self._task, completed=step, total=steps, metrics=_line(shown), visible=True
            )
        else:
            _print(f"step {step:>{len(str(steps))}}/{steps}  {_line(metrics)}")

    @staticmethod
    def reached(metrics: dict[str, float]) -> str:
        """The result of a run, in a few words."""
        if "bits_per_byte" in metrics:
            return f"{metrics['bits_per_byte']:.3f} bits a byte of the held-out text"
        for name in ("test_accuracy", "val_accuracy"):
            if name in metrics:
                return f"{metrics[name]:.2%} of the held-out examples right"
        if "accuracy" in metrics:
            return f"{metrics['accuracy']:.2%} of the examples right"
        for name, said in (("test_loss", "held-out loss"), ("val_loss", "val_loss")):
            if name in metrics:
                return f"{said} {metrics[name]:.4g}"
        return f"loss {metrics['loss']:.4g}"


def _line(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _print(text: str) -> None:
    """Prints; if standard output is closed, prints nothing from then on, and the run continues."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
