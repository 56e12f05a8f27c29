"""Event files for TensorBoard, written without a thread."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

# protobuf creates both when the module is imported, which type checkers cannot see.
Event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
SessionLog = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]


class EventFile:
    """A new event file of a run.

    tensorboardX's own SummaryWriter passes events to a thread. When the disk is full, that thread
    dies with a traceback, and the program then waits for it forever.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        """Opens the file; TensorBoard hides events of earlier files from `first_step` on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Records a value."""
        self._write(Event(step=step, summary=summary.scalar(name, value)))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Records an image, uint8 (H, W, C)."""
        self._write(Event(step=step, summary=summary.image(name, image, dataformats="HWC")))

    def flush(self) -> None:
        """Writes the recorded events to disk, where TensorBoard reads them."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
