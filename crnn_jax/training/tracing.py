"""Traces of single steps by jax.profiler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax


class StepTrace:
    """Traces a number of steps of a run; a context manager.

    The trace starts after the first step that did not have to be compiled, so that it shows what
    most steps are like.
    """

    def __init__(self, directory: Path, steps: int, say: Callable[[str], None]) -> None:
        """Plans a trace.

        Args:
          directory: where the trace is written.
          steps: how many steps to trace; 0 for none.
          say: is called with a line that says where the trace is.
        """
        self._directory = directory
        self._steps = steps
        self._say = say
        self._traced: int | None = None  # steps so far, if the trace was started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._traced is not None and self._traced < self._steps:
            self._stop()

    def after_step(self, metrics: Any, was_compiled: bool) -> None:
        """Starts or stops the trace if it is time to; to be called after every step.

        Args:
          metrics: an output of the step, to wait for.
          was_compiled: whether the step was compiled before it was called.
        """
        if self._traced is None:
            if self._steps and was_compiled:
                jax.block_until_ready(metrics)
                options = jax.profiler.ProfileOptions()
                # Calls of Python functions would exceed the million events that viewers show.
                options.python_tracer_level = 0
                jax.profiler.start_trace(self._directory, profiler_options=options)
                self._traced = 0
        elif self._traced < self._steps:
            self._traced += 1
            if self._traced == self._steps:
                jax.block_until_ready(metrics)
                self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._say(
            f"traced {self._traced} steps into {self._directory}; open the trace with xprof or"
            " TensorBoard's profile plugin"
        )


def annotation(step: int) -> jax.profiler.StepTraceAnnotation:
    """A context that marks a step in a trace, for xprof's times per step."""
    return jax.profiler.StepTraceAnnotation("train", step_num=step)
