"""Training metrics since they were last recorded, and the speed of the steps."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax

PACED = 200  # the latest steps whose mean time is used to estimate the time left


class Throughput:
    """Training metrics since they were last recorded, and the speed of the steps.

    Its clock stops while the run starts, compiles a program, evaluates or saves. A step is added
    while it is running; its time is counted with the next step. So the first step has no time, and
    its images do not count.
    """

    def __init__(self) -> None:
        self._stopped = 0.0  # seconds for which the clock was stopped
        self._step_seconds: deque[float] = deque(maxlen=PACED)
        self._last_step: float | None = None
        self._compiled: set[int] = set()  # widths
        self._open()

    def _open(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._images = 0
        self._waited = 0.0
        self._start = self._now()

    def _now(self) -> float:
        return time.monotonic() - self._stopped

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock."""
        start = time.monotonic()
        yield
        self._stopped += time.monotonic() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data; before the first step the clock stops."""
        if self._last_step is None:  # reading ahead starts, which takes longer than a batch
            with self.paused():
                yield
            return
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def step(self, width: int, previous: Any) -> Iterator[bool]:
        """Stops the clock if the step inside must be compiled; yields whether it is compiled.

        Args:
          width: of the batch; steps of one width share a program.
          previous: outputs of the previous step, which may still be running.
        """
        compiled = width in self._compiled
        if compiled:
            yield True
            return
        # Otherwise the previous step would finish while the clock is stopped, in no time.
        jax.block_until_ready(previous)
        with self.paused():
            yield False
        self._compiled.add(width)

    def add(self, metrics: dict[str, jax.Array], images: int) -> None:
        """Adds a step."""
        self._metrics.append(metrics)
        now = self._now()
        if self._last_step is not None:
            self._images += images
            self._step_seconds.append(now - self._last_step)
        self._last_step = now

    def so_far(self) -> dict[str, Any]:
        """Loss and skipped steps as of the step before the newest one; speed; waiting.

        `images_per_second` and `waiting`, a share of the time, are since the last `close`;
        `seconds_per_step` is the mean of the last PACED steps; `skipped` is of the whole run.
        """
        seconds = max(self._now() - self._start, 1e-9)
        ready = self._metrics[-2 if len(self._metrics) > 1 else -1]
        return {
            "loss": float(ready["loss"][0]),
            "images_per_second": self._images / seconds,
            "waiting": self._waited / seconds,
            "seconds_per_step": sum(self._step_seconds) / max(1, len(self._step_seconds)),
            "skipped": int(ready["skipped"][0]),
        }

    def close(self) -> dict[str, float]:
        """The means of the metrics since the last `close`; a new interval starts."""
        losses = [float(metrics["loss"][0]) for metrics in self._metrics]
        norms = [float(metrics["gradient_norm"][0]) for metrics in self._metrics]
        values = {
            **self.so_far(),
            "loss": sum(losses) / len(losses),
            "gradient_norm": sum(norms) / len(norms),
            "seconds": self._now() - self._start,
        }
        self._open()
        return values
