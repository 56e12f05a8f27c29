"""A run's metrics since they were last recorded, and its pace."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax

PACED = 200  # steps whose mean time tells how long the rest will take


class Throughput:
    """Training metrics since they were last recorded, and the pace of the steps.

    Its clock stands still while the run starts, compiles a program, evaluates or saves. A step is
    added while it is under way, and the time since then is the next one's; so the first has none,
    and its images do not count.
    """

    def __init__(self) -> None:
        self._stood_still = 0.0  # seconds
        self._step_seconds: deque[float] = deque(maxlen=PACED)
        self._last_step: float | None = None
        self._open()

    def _open(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._images = 0
        self._waited = 0.0
        self._start = self._now()

    def _now(self) -> float:
        return time.monotonic() - self._stood_still

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of all metrics."""
        start = time.monotonic()
        yield
        self._stood_still += time.monotonic() - start

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

        `images_per_second` and `waiting`, a share of the time, are since the last `close`,
        `seconds_per_step` of the last PACED steps; `skipped` counts since the run began.
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
        """The means of the metrics since the last `close`; a new interval begins."""
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
