"""Where a run shows itself: the terminal, metrics.jsonl, TensorBoard, a grid of predictions."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from crnn_jax.training.events import EventFile
from crnn_jax.training.image_grid import image_grid

_FIRST_KEYS = (
    *("step", "epoch", "split", "loss", "exact_match", "exact_match_caseless", "cer"),
    *("images_per_second", "seconds"),
)
# What the terminal says of an evaluation: metric, words, factor.
_WORDS = (
    ("exact_match", "exact match {:.2f} %", 100),
    ("exact_match_caseless", "caseless {:.2f} %", 100),
    ("cer", "CER {:.2f} %", 100),
    ("loss", "loss {:.3g}", 1),
    ("seconds", "({:.1f} s)", 1),
)
_OF_A_PART = "exact_match/"  # the name of a mixture's part follows, whose exact match it is
_PLAIN_LINE_EVERY = 10.0  # seconds


class Writer:
    """Shows a run on stderr and records it in a directory; a context manager.

    stdout is left to results. On a terminal a live line is kept at the bottom; elsewhere (log
    file, CI, notebook) a plain line appears every ten seconds at most.
    """

    def __init__(
        self, workdir: Path, total_steps: int, steps_per_epoch: int, first_step: int
    ) -> None:
        """Opens the records in `workdir`, without what an earlier run left beyond `first_step`.

        Args:
          workdir: directory for metrics.jsonl, predictions.png and tensorboard/; made if missing.
          total_steps: steps of the whole run, those before a resume included.
          steps_per_epoch: steps in an epoch.
          first_step: steps done before; 0 for a new run.
        """
        workdir.mkdir(parents=True, exist_ok=True)
        self._workdir = workdir
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        _forget_after(workdir / "metrics.jsonl", first_step)
        # Line buffering: a killed run keeps every metric it has shown.
        self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._events = EventFile(workdir / "tensorboard", first_step + 1)
        self._console = Console(stderr=True, force_jupyter=False)
        self._bar: Progress | None = None
        # CI systems make rich believe in a terminal (FORCE_COLOR), so the stream is asked as well.
        if self._console.is_interactive and sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(20),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,
            )
            self._task = self._bar.add_task("compiling", total=total_steps, completed=first_step)
        self._next_line = -math.inf

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        # What ends the run is said, not that its last metrics have no room either.
        for file in (self._events, self._lines):
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():
                file.close()

    def say(self, text: str) -> None:
        """Prints a line on stderr, above the live line if there is one."""
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def progress(
        self,
        step: int,
        loss: float,
        images_per_second: float,
        waiting: float,
        seconds_per_step: float,
        skipped: int = 0,
    ) -> None:
        """Shows how far the run is; to be called at every step.

        Args:
          step: steps done.
          loss: training loss of late.
          images_per_second: training speed of late.
          waiting: share of the time spent waiting for data, in [0, 1].
          seconds_per_step: from which the time left is estimated.
          skipped: steps without an update, as loss or gradient was not finite; shown if any.
        """
        now = time.monotonic()
        if not self._bar and now < self._next_line:
            return
        epochs = math.ceil(self._total_steps / self._steps_per_epoch)
        line = (
            f"epoch {self._epoch(step)}/{epochs}  step {step}/{self._total_steps}  "
            f"loss {loss:.3g}  {images_per_second:.0f} images/s  waiting {100 * waiting:.0f} %"
        )
        if skipped:
            line += f"  {skipped} step(s) skipped, not finite"
        left = timedelta(seconds=round(seconds_per_step * (self._total_steps - step)))
        line += f"  {left} left"
        if self._bar:
            self._bar.update(self._task, completed=step, description=line)
        else:
            self._next_line = now + _PLAIN_LINE_EVERY
            self.say(line)

    def metrics(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Records the metrics of a split: a JSON line, TensorBoard scalars, and a readable line.

        Args:
          step: steps done.
          epoch: epochs done, in part too.
          split: what was measured; "train" makes no readable line, as the live line shows it.
          values: metrics by name; fractions in [0, 1] for matches and CER, nats, seconds.
        """
        rounded = {key: _rounded(value) for key, value in values.items()}
        epoch = round(epoch, 4)
        entry = {"step": step, "epoch": epoch, "split": split, **rounded}
        entry = {key: entry[key] for key in dict.fromkeys((*_FIRST_KEYS, *entry)) if key in entry}
        self._lines.write(json.dumps(entry, allow_nan=False) + "\n")
        for key, value in rounded.items():
            if value is not None:
                self._events.scalar(f"{split}/{key}", value, step)
        self._events.flush()
        if split != "train":
            words = [text.format(n * values[key]) for key, text, n in _WORDS if key in values]
            words += [
                f"{key.removeprefix(_OF_A_PART)} {100 * value:.2f} %"
                for key, value in values.items()
                if key.startswith(_OF_A_PART)
            ]
            self.say("  ".join([f"epoch {epoch:g}  step {step}  {split}", *words]))

    def predictions(
        self,
        step: int,
        images: Sequence[np.ndarray],
        texts: Sequence[str],
        references: Sequence[str],
    ) -> None:
        """Shows images, uint8 (H, W, C), with what was read: TensorBoard and predictions.png."""
        grid = image_grid(images, texts, references)
        grid.save(self._workdir / "predictions.png")
        self._events.image("predictions", np.asarray(grid), step)
        self._events.flush()

    def _epoch(self, step: int) -> int:
        return max(1, math.ceil(step / self._steps_per_epoch))


def _rounded(value: float) -> float | None:
    """Six significant digits; None, JSON's null, for what JSON cannot say."""
    if isinstance(value, int):
        return value
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def _forget_after(path: Path, step: int) -> None:
    """Drops the lines of a JSON-lines file beyond `step`, and what a killed run half wrote."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
