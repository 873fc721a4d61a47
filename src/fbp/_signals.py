"""SIGINT and SIGTERM: work ends at a place where nothing is lost, and soon."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

_WANTED = [s for name in ("SIGINT", "SIGTERM", "SIGHUP") if (s := getattr(signal, name, None))]


class Signals:
    """Notes the first signal in `signum`, where the work at hand looks; a second ends the process.

    Python runs a handler only when the main thread comes back from compiled code, which may take
    minutes. A thread hears of a signal at once, and does what `meanwhile` names: such as to save,
    and then, if the process may be ended, to end it.

    Signals that are ignored, as SIGINT after nohup, stay so. Outside the main thread nothing is
    changed, as Python allows it there only.

    Args:
      end: called with a signal's number after what `meanwhile` names; it does not return. None
        leaves the ending to the work at hand.
    """

    def __init__(self, end: Callable[[int], None] | None = None):
        self.signum: int | None = None
        self.said = ""  # what `meanwhile` has done, for a line to the user
        self._end = end
        self._lock = threading.RLock()
        self._hook: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    @property
    def ends(self) -> bool:
        """Whether a signal ends the process, and not only the work at hand."""
        return self._end is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        for number in _WANTED:
            if signal.getsignal(number) != signal.SIG_IGN:
                # The thread does the work; with no handler, the process would end.
                self._before[number] = signal.signal(number, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not hasattr(self, "_wakeup"):
            return
        # The handlers first: a signal between the two must not vanish.
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._mouth.close()  # which ends the thread

    @contextlib.contextmanager
    def meanwhile(self, hook: Callable[[], None] | None) -> Iterator[None]:
        """While work that looks at no `signum` runs, a signal calls `hook` in another thread.

        With None, the work looks at `signum` itself. The work waits at the end of this until the
        hook is done.
        """
        with self._lock:
            before, self._hook = self._hook, hook
        try:
            yield
        finally:
            with self._lock:
                self._hook = before

    def _listen(self) -> None:
        with self._ear:
            while numbers := self._ear.recv(64):
                for number in numbers:
                    if number not in self._before:
                        continue
                    if self.signum is not None:
                        os._exit(128 + number)
                    self.signum = number
                    # In a thread of its own: a second signal must be heard meanwhile.
                    threading.Thread(target=self._call, args=(number,), daemon=True).start()

    def _call(self, number: int) -> None:
        with self._lock:
            if self._hook is None:
                return
            try:
                self._hook()
            except Exception as error:  # told to the user; the work at hand meets it again
                self.said = f"; {error}"
            finally:
                if self._end is not None:
                    self._end(number)


def name_of_signal(signum: int) -> str:
    """Its name, as SIGTERM; Ctrl-C for SIGINT."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
