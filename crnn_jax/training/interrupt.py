"""Stopping a run between two steps on SIGTERM, Ctrl-C, or when its terminal is closed."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

# Windows has no SIGHUP, which says that the terminal or the connection to it was closed.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequest:
    """A context in which the first SIGTERM, Ctrl-C or SIGHUP is only remembered.

    It restores the earlier handlers, so that a second signal acts at once. `deliver` raises the
    remembered signal again, with its usual effect. A signal that was ignored before, as under
    `nohup` or in the background of a script, stays ignored.

    Attributes:
        received: the number of the remembered signal, or None.
        then: called when the signal arrives, for example to end what the main thread waits for.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.then: Callable[[], None] = lambda: None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is None or signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._earlier[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def deliver(self) -> None:
        """Raises the remembered signal, if any, for the earlier handlers.

        If there is no handler and the system would kill the process, it exits with the code that
        shells report for such a process: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP.
        """
        if self.received is None:
            return
        if signal.getsignal(self.received) is signal.SIG_DFL:
            sys.exit(128 + self.received)
        signal.raise_signal(self.received)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()
        self.then()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
