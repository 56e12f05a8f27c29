"""The files of a report: report.json and index.html, read and written."""

import importlib.metadata
import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from crnn_jax import __version__
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.errors import DataError
from crnn_jax.files import check_inside, read_file
from crnn_jax.messages import one_line
from crnn_jax.reports.contents import build_report
from crnn_jax.reports.schema import FORMAT, Model, Report, Run
from crnn_jax.training import parallel
from crnn_jax.training.manifest import CHECKPOINTS
from crnn_jax.training.parallel import Devices
from crnn_jax.training.workdir import rewrite
from crnn_jax.training.writers import MAX_METRICS_BYTES

FOLDER, PAGE, CONTENT = "report", "index.html", "report.json"
CARD = "README.md"
MAX_BYTES = 2**29
"""Size of report.json, which has 200 bytes for each image, and up to 560 encoded images."""
MAX_CARD_BYTES = 10_000_000
RECORDED_VERSIONS = ("jax", "jaxlib", "flax", "numpy", "pillow")

logger = logging.getLogger(__name__)


def report_evaluation(
    folder: Path,
    model: Model,
    images: str,
    split: str,
    splits: Mapping[str, PreparedSplit],
    texts: Sequence[str | None],
    confidences: np.ndarray,
    *,
    devices: Devices = None,
    workdir: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> bool:
    """Writes the report of an evaluation, and the card of its model if the training is known.

    A problem is a warning: the evaluation is worth more than its report.

    Args:
      folder: for `index.html` and `report.json`, which replace older ones.
      model, images, split, splits, texts, confidences: see `build_report`. If there is a split
        `train`, a card is written as well.
      devices: those that evaluated.
      workdir: the folder of the run, whose metrics.jsonl has the learning curves; the card belongs
        there.
      options: how the texts were decoded.

    Returns:
      Whether it was written.
    """
    # Not at the top: a run does not have to wait for the templates before it starts.
    from crnn_jax.reports.cards import model_card

    try:
        if workdir and folder == workdir / FOLDER:
            check_inside(folder, workdir)
        run = _run(devices, options or {})
        lines = _metrics_lines(workdir) if workdir else ()
        report = build_report(model, run, images, split, splits, texts, confidences, lines)
        write_report(folder, report)
        if workdir and "train" in splits:
            _write_card(workdir, model_card(report))
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        logger.warning("there is no new report in %s: %s", folder, reason)
        return False
    return True


def report_folder(workdir: Path, chosen: str | None) -> Path | None:
    """The folder of a report: the chosen one, else that of the run; a pretrained model has none."""
    if chosen:
        return Path(chosen)
    return workdir / FOLDER if (workdir / CHECKPOINTS).is_dir() else None


def write_report(folder: Path, report: Report) -> None:
    """Writes report.json and index.html.

    Raises:
      OSError: a file cannot be written.
    """
    # ASCII, as names of files may have bytes that are no text.
    content = json.dumps(msgspec.to_builtins(report), allow_nan=False, separators=(",", ":"))
    folder.mkdir(parents=True, exist_ok=True)
    rewrite(folder / CONTENT, content.encode())
    write_page(folder, report)


def write_page(folder: Path, report: Report) -> None:
    """Writes index.html into a folder.

    Raises:
      OSError: it cannot be written.
    """
    from crnn_jax.reports.page import report_page

    rewrite(folder / PAGE, report_page(report).encode())


def find_report(path: Path) -> Path:
    """The file report.json of a workdir or of a folder of a report; or the file itself.

    Raises:
      DataError: there is none.
    """
    for file in (path / FOLDER / CONTENT, path / CONTENT, path):
        if file.is_file():
            return file
    raise DataError(
        f"{path} has no {CONTENT}; evaluate it first, with crnn-jax eval --workdir"
        f" {shlex.quote(str(path))}"
    )


def read_report(path: Path) -> Report:
    """Reads a report.json, which may come from anyone.

    Raises:
      DataError: it cannot be read, or is no report.
    """
    try:
        content = json.loads(read_file(path, MAX_BYTES))
        # Any later format may have other entries.
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise ValueError(f"it has format {content['format']}, not {FORMAT}")
        report = msgspec.convert(content, Report)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error))
        raise DataError(f"{path} is no report: {reason}; evaluate the model again") from error
    if any(shown.index >= len(report.results) for shown in report.shown):
        raise DataError(f"{path} is no report: it shows images without results")
    return report


def _run(devices: Devices, options: Mapping[str, Any]) -> Run:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        machine=f"{parallel.description(devices)}, {cores} cores, {platform.system()}"
        f" {platform.machine()}",
        versions={
            "crnn_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in RECORDED_VERSIONS},
        },
        options={name: one_line(str(value)) for name, value in options.items() if value},
    )


def command_line() -> str:
    """The command that runs, as it is typed; empty in programs that are no command of ours."""
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program and program.name.startswith("crnn_jax."):
        return shlex.join(["python", "-m", program.name, *sys.argv[1:]])
    if Path(sys.argv[0]).stem == "crnn-jax":
        return shlex.join(["crnn-jax", *sys.argv[1:]])
    return ""


def _metrics_lines(workdir: Path) -> list[str]:
    try:
        data = read_file(workdir / "metrics.jsonl", MAX_METRICS_BYTES, workdir)
    except OSError:
        return []
    return data.decode(errors="replace").split("\n")


def _write_card(workdir: Path, card: str) -> None:
    """Writes README.md, unless the one that is there was written or changed by someone else."""
    from crnn_jax.reports.cards import is_ours

    place = workdir / CARD
    try:
        old = read_file(place, MAX_CARD_BYTES, workdir).decode(errors="replace")
    except FileNotFoundError:
        old = None
    except OSError:  # a link out of the workdir, or no file
        return
    if old is None or is_ours(old):
        rewrite(place, card.encode(errors="backslashreplace"))
