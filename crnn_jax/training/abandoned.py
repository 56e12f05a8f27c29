"""Threads of Orbax that go on when the save or the restore that started them has failed."""

import logging
import sys
import threading
from typing import Any

SECONDS = 10.0  # in which such a thread ends
HOOKED = "silences_abandoned_reads"  # marks our hook, so that it is installed once


def silence_abandoned() -> None:
    """Hides the tracebacks of these threads; the error that ended the first one is raised anyway.

    A read ends when its event loop is already closed.
    """
    logging.getLogger("absl").addFilter(_is_no_abandoned_write)
    earlier = sys.unraisablehook
    if getattr(earlier, HOOKED, False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            earlier(unraisable)

    setattr(hook, HOOKED, True)
    sys.unraisablehook = hook


def _is_no_abandoned_write(record: logging.LogRecord) -> bool:
    return "_SignalingThread.run() raised" not in record.getMessage()


def wait_for_abandoned() -> None:
    """Waits for these threads, which would create their folders again."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread, SECONDS)  # their own raises their errors
