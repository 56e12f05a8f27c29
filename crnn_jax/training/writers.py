"""The output of a run: terminal, metrics.jsonl, TensorBoard, and a grid of predictions."""

import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from crnn_jax.files import read_file
from crnn_jax.training.events import EventFile
from crnn_jax.training.image_grid import image_grid
from crnn_jax.training.workdir import rewrite, writing

_FIRST_KEYS = (
    *("step", "epoch", "split", "loss", "exact_match", "exact_match_caseless", "cer"),
    *("images_per_second", "seconds"),
)
# What the terminal shows of an evaluation: metric, text, factor.
_WORDS = (
    ("exact_match", "exact match {:.2f} %", 100),
    ("exact_match_caseless", "caseless {:.2f} %", 100),
    ("cer", "CER {:.2f} %", 100),
    ("loss", "loss {:.3g}", 1),
    ("seconds", "({:.1f} s)", 1),
)
_OF_A_PART = "exact_match/"  # followed by the name of a part of a mixture
MAX_METRICS_BYTES = 2**30
"""A run of a million lines has a fifth of it."""
_PLAIN_LINE_EVERY = 10.0  # seconds


class _Patient:
    """A stream that nobody may read any more: what cannot be written is dropped.

    A run goes on when its terminal is closed, or the disk of its log is full. From then on nothing
    is written to the stream, neither by this program nor by the libraries it uses.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._abandon()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Writer:
    """Shows a run on stderr and records it in a workdir; a context manager.

    stdout is left to results. On a terminal a live line stays at the bottom; elsewhere (log file,
    CI, notebook) a plain line is printed every ten seconds at most.

    Attributes:
        workdir: the folder that everything is written to.
        metrics_file: metrics.jsonl in it.
        newest_split: the split of the newest line of metrics.jsonl; empty if there is no line.
    """

    def __init__(
        self, workdir: Path, total_steps: int, steps_per_epoch: int, first_step: int
    ) -> None:
        """Opens the files; lines that an earlier run wrote after `first_step` are deleted.

        Args:
          workdir: folder for metrics.jsonl, predictions.png and tensorboard/; created if missing.
          total_steps: steps of the whole run, including those before a resume.
          steps_per_epoch: steps in an epoch.
          first_step: steps done before; 0 for a new run.

        Raises:
          ConfigError: the workdir cannot be written; so do the methods.
        """
        self.workdir = workdir
        self.metrics_file = workdir / "metrics.jsonl"
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            self.newest_split = _truncate(self.metrics_file, first_step)
            # Line buffering, so that a killed run keeps every metric it has shown.
            self._lines = self.metrics_file.open("a", encoding="utf-8", buffering=1)
            self._events = EventFile(workdir / "tensorboard", first_step + 1)
        stderr: Any = _Patient(sys.stderr)
        self._console = Console(file=stderr, force_jupyter=False)
        self._bar: Progress | None = None
        # FORCE_COLOR, which CI systems set, makes rich assume a terminal, so ask the stream, too.
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
        # An error that ends the run must not be hidden by a second one about a full disk.
        for file in (self._events, self._lines):
            with contextlib.suppress(OSError) if error else writing(self.workdir):
                file.close()

    def say(self, text: str) -> None:
        """Prints a line to stderr, above the live line if there is one."""
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
        """Shows how far the run is; to be called after every step.

        Args:
          step: steps done.
          loss: recent training loss.
          images_per_second: recent training speed.
          waiting: share of the time spent waiting for data, in [0, 1].
          seconds_per_step: used to estimate the time left.
          skipped: steps whose update was skipped because it was not finite; shown if any.
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
          epoch: epochs done, with a fraction.
          split: the split; "train" makes no readable line, as the live line shows its metrics.
          values: metrics by name: matches and CER as fractions, losses in nats, times in seconds.
        """
        rounded = {key: _rounded(value) for key, value in values.items()}
        epoch = round(epoch, 4)
        entry = {"step": step, "epoch": epoch, "split": split, **rounded}
        entry = {key: entry[key] for key in dict.fromkeys((*_FIRST_KEYS, *entry)) if key in entry}
        with writing(self.workdir):
            self._lines.write(json.dumps(entry, allow_nan=False) + "\n")
            for key, value in rounded.items():
                if value is not None:
                    self._events.scalar(f"{split}/{key}", value, step)
            self._events.flush()
        self.newest_split = split
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
        """Shows images with their predictions, in TensorBoard and in predictions.png.

        Args:
          step: steps done.
          images: uint8 images (H, W, C).
          texts: the predicted text of each image.
          references: the label of each image.
        """
        grid = image_grid(images, texts, references)
        file = io.BytesIO()
        grid.save(file, "png")
        with writing(self.workdir):
            rewrite(self.workdir / "predictions.png", file.getvalue())
            self._events.image("predictions", np.asarray(grid), step)
            self._events.flush()

    def _epoch(self, step: int) -> int:
        return max(1, math.ceil(step / self._steps_per_epoch))


def _rounded(value: float) -> float | None:
    """Six significant digits; None for NaN and infinity, which JSON does not have."""
    if isinstance(value, int):
        return value
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def _truncate(path: Path, step: int) -> str:
    """Deletes the lines of metrics.jsonl after `step`, and a partial one that a killed run left.

    Returns:
      The split of the last line that remains; empty if there is none.
    """
    kept: list[str] = []
    newest_split = ""
    if not path.exists():
        return newest_split
    for line in read_file(path, MAX_METRICS_BYTES).decode(errors="replace").split("\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            if entry["step"] <= step:
                kept.append(line + "\n")
                newest_split = entry.get("split", "")
    rewrite(path, "".join(kept).encode())
    return newest_split
