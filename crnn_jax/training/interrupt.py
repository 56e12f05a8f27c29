"""Stopping between two steps when the system or the user asks for it."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """A context in which SIGTERM and Ctrl-C are remembered instead of acted upon.

    A second signal acts at once. Leaving the context puts the earlier handlers back; `deliver`
    then lets the remembered signal do what it would have done.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread alone; elsewhere the caller owns the signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def deliver(self) -> None:
        """Raises the remembered signal, if any, for the earlier handlers."""
        if self.received is not None:
            signal.raise_signal(self.received)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
