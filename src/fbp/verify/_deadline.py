"""A time limit on the stages of a check, and a line that shows on a terminal which is running.

with Deadline(60.0, "layer_norm") as deadline:
    for probe in deadline.each("further probes", probes):
        ...
    if deadline.allows("the variants"):
        ...
    print(deadline.said())  # out of time after seconds=60: left out: the variants
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO

# A check that ends sooner than this shows nothing.
_QUIET = 2.0
_ERASED = "\r\x1b[K"


class Deadline:
    """Ends stages once a time is over, and keeps the names of those that it left out.

    A stage that has begun is not interrupted, so the limit may be exceeded by one.

    Args:
      seconds: the time, from now on; None for no limit.
      name: what is being checked.
      stream: where progress is shown, if that is a terminal.
      clock: the time in seconds.

    Attributes:
      left_out: the stages that were left out.
    """

    def __init__(
        self,
        seconds: float | None = None,
        name: str = "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds, self.name = seconds, name
        self.left_out: list[str] = []
        self._stream, self._clock = stream or sys.stderr, clock
        self._started, self._shown = clock(), False
        self._is_terminal = bool(getattr(self._stream, "isatty", lambda: False)())

    def left(self) -> float:
        """How many seconds are left; infinite without a limit."""
        return math.inf if self.seconds is None else self.seconds - self._clock() + self._started

    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.left() <= 0

    def allows(self, stage: str) -> bool:
        """Whether there is time for a stage; shows it as running, or keeps it as left out."""
        if self.is_over():
            if stage not in self.left_out:
                self.left_out.append(stage)
            return False
        self.show(stage)
        return True

    def each(self, stage: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items until the time is over, but always the first."""
        for n, item in enumerate(items):
            if n and not self.allows(stage):
                return
            yield item

    def said(self) -> str:
        """What was left out, in one line; "" if nothing was."""
        if not self.left_out:
            return ""
        stages = ", ".join(self.left_out)
        return f"out of time after seconds={self.seconds:g}: left out: {stages}"

    def close(self) -> None:
        """Erases the line of progress."""
        if self._shown:
            self._stream.write(_ERASED)
            self._stream.flush()
            self._shown = False

    def __enter__(self) -> "Deadline":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def show(self, stage: str) -> None:
        """Shows a stage as running."""
        passed = self._clock() - self._started
        if not self._is_terminal or passed < _QUIET:
            return
        line = f"checking {self.name}: {stage}, {passed:.0f} s"
        # One line, whatever the width of the terminal.
        self._stream.write(f"{_ERASED}{line[:79]}")
        self._stream.flush()
        self._shown = True
