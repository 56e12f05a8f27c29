"""Measures the pipeline in front of the network: batches from image files."""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from workload import LETTERS, SEED

from crnn_jax.architecture import Architecture
from crnn_jax.data.augment import Augmentation
from crnn_jax.data.batching import TrainingBatches, TrainingPlan
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.synthetic.captcha import render
from crnn_jax.text.alphabet import Alphabet

IMAGES = 2_000
BUCKETS = 4
CACHE = 2 << 30  # bytes
CACHED_EPOCHS = 5


def write_captchas(directory: Path) -> None:
    """Writes IMAGES captchas of 4 to 8 characters into files named after their texts."""
    rng = random.Random(SEED)
    for index in range(IMAGES):
        text = "".join(rng.choices(LETTERS, k=rng.randint(4, 8)))
        (directory / f"{text}_{index}.png").write_bytes(render(text, index))


def forget(directory: Path) -> None:
    """Makes the system drop its cache of the files, so that they are read from the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # data not yet written would not be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_memory() -> dict[str, float]:
    """The peak memory of this process in MB; empty on a system that does not record it."""
    if sys.platform == "win32":
        return {}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return {"peak_memory_mb": peak / unit}


def measure_input(batch_size: int) -> dict[str, dict[str, float]]:
    """Measures the pipeline alone, in images per second: from uncached files and from the cache."""
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="crnn_jax_benchmark_") as scratch:
        directory = Path(scratch)
        write_captchas(directory)
        split = folder(directory)["all"]
        labels = Labels.encode(split.labels, Alphabet(LETTERS))
        for source, cache, epochs in (("cold files", 0, 1), ("cache", CACHE, CACHED_EPOCHS)):
            reader = ImageReader(Preprocessing(), cache)
            prepared = PreparedSplit(split, labels, reader, Architecture().time_steps)
            buckets = choose_buckets(prepared.widths, BUCKETS)
            plan = TrainingPlan(prepared.widths, buckets, batch_size, epochs, SEED)
            forget(directory)
            start = time.perf_counter()
            batches = TrainingBatches(prepared, plan, buckets, Augmentation(), 0, workers=0)
            images = sum(len(batch["images"]) for batch in batches)
            result[source] = {
                "images_per_second": images / (time.perf_counter() - start),
                **peak_memory(),
            }
    return result
