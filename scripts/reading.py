"""Measures `crnn-jax predict` on files, beside the network on the same images in memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import write_captchas
from timing import take_turns

from crnn_jax.recognition.image_files import find_images
from crnn_jax.recognition.preparing import Prepared, prepare_groups
from crnn_jax.recognition.read_files import read_files
from crnn_jax.recognition.recognizer import READ_AHEAD, Recognizer
from crnn_jax.recognition.rows import ResultFile, RowWriter

FILES = 10_000


def measure_reading(
    images: Path | None, batch_size: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Measures the default model in images per second.

    - `files`: what the command does, from the names in a folder to rows in a file;
    - `preparing`: reading, decoding and resizing the files alone, in as many threads;
    - `network`: the images prepared and in memory, from batches to texts.

    Args:
      images: a folder of images; None for captchas.
      batch_size: as for the command.
      rounds: the turns of each program.
    """
    recognizer = Recognizer.load()
    preprocessing, size = recognizer.model.preprocessing, READ_AHEAD * batch_size
    with folder_of_files(images) as folder, tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "results.tsv"

        def files() -> None:
            output.unlink(missing_ok=True)
            with ResultFile(output, "tsv", resume=False) as file:
                write = RowWriter("tsv", file.write)
                read_files(recognizer, find_images([folder], fail), batch_size, {}, write, fail)

        def preparing() -> list[list[Prepared]]:
            groups = prepare_groups(find_images([folder], fail), preprocessing, size)
            return [[i for i in group if isinstance(i, Prepared)] for group in groups]

        prepared = preparing()

        def network() -> None:
            for group in prepared:
                recognizer._read(group, batch_size)

        timings = take_turns(
            {"files": files, "preparing": preparing, "network": network}, rounds, warm_up=1
        )
    count = sum(map(len, prepared))
    return {
        name: {
            "images_per_second": count / timing.median,
            "times_network": timings["network"].median / timing.median,
            "spread": timing.spread,
        }
        for name, timing in timings.items()
    }


@contextmanager
def folder_of_files(images: Path | None) -> Iterator[str]:
    """A folder with FILES files, which are links to fewer."""
    with tempfile.TemporaryDirectory(prefix="crnn_jax_benchmark_") as scratch:
        drawn, links = Path(scratch) / "drawn", Path(scratch) / "links"
        links.mkdir()
        if images is None:
            drawn.mkdir()
            write_captchas(drawn)
        originals = list(find_images([str(images or drawn)], fail))
        for number in range(FILES):
            original = Path(originals[number % len(originals)]).resolve()
            os.symlink(original, links / f"{number:05}{original.suffix}")  # noqa: PTH211
        yield str(links)


def fail(error: Exception) -> None:
    """Ends the measurement."""
    raise error
