"""Stopping between two steps when the system or the user asks for it."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """A context in which SIGTERM and Ctrl-C are remembered instead of acted upon.

    One that is ignored, as `nohup` and the background of a script have it, is ignored still. A
    second signal acts at once, as the handlers that were there before are put back. `deliver` lets
    the remembered signal do what it would have done.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread alone; elsewhere the caller owns the signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._earlier[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def deliver(self) -> None:
        """Raises the remembered signal, if any, for the earlier handlers.

        Where there is none, and the system would kill, the program exits with the code that shells
        give to such a death: 143 for SIGTERM, 130 for Ctrl-C.
        """
        if self.received is None:
            return
        if signal.getsignal(self.received) is signal.SIG_DFL:
            sys.exit(128 + self.received)
        signal.raise_signal(self.received)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
