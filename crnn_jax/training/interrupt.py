"""Stopping a run between two steps on SIGTERM or Ctrl-C."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C is only remembered.

    It restores the earlier handlers, so that a second signal acts at once. `deliver` raises the
    remembered signal again, with its usual effect. A signal that was ignored before, as under
    `nohup` or in the background of a script, stays ignored.

    Attributes:
        received: the number of the remembered signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._earlier[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def deliver(self) -> None:
        """Raises the remembered signal, if any, for the earlier handlers.

        If there is no handler and the system would kill the process, it exits with the code that
        shells report for such a process: 143 for SIGTERM, 130 for Ctrl-C.
        """
        if self.received is None:
            return
        if signal.getsignal(self.received) is signal.SIG_DFL:
            sys.exit(128 + self.received)
        signal.raise_signal(self.received)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
