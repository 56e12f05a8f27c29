"""Exports a model in every format, and measures each: size, accuracy, time, difference from JAX.

    python scripts/formats.py captcha DATA/captcha_pku_elective

DIR is a labeled folder; its test images are read through the runtime of each format, and compared
with JAX as `crnn-jax export` does. The times are those of one image and of 32 images of one size,
as they are, from pixels to texts. All formats take turns.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import take_turns

from crnn_jax.exporting.formats import FORMATS, load_format
from crnn_jax.exporting.proof import prove
from crnn_jax.exporting.proof_images import find_images
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel

IMAGES = 1_000  # at most
BATCHES = (1, 32)
IN_A_BROWSER = "web"  # its model is that of onnx

Program = Callable[[], object]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measures a model in every format.")
    parser.add_argument("model", help="a workdir, or the name of a pretrained model")
    parser.add_argument("dir", type=Path, help="a labeled folder")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each format")
    arguments = parser.parse_args()
    model = TrainedModel.load(arguments.model)
    found = find_images(model, arguments.dir, IMAGES)
    sizes = Counter(sample.pixels.shape for sample in found.samples)
    size = sizes.most_common(1)[0][0]
    same = [sample.pixels for sample in found.samples if sample.pixels.shape == size]
    batches = {count: np.stack([same[i % len(same)] for i in range(count)]) for count in BATCHES}
    rows: dict[str, list[str]] = {}
    programs: dict[str, dict[int, Program]] = {}
    for backend in ("jax", "onnx"):
        recognizer = Recognizer.load(arguments.model, backend=backend)
        name = f"Recognizer, {backend}"
        rows[name] = ["", "", ""]
        programs[name] = {
            count: partial(recognizer, [image.squeeze() for image in batch])
            for count, batch in batches.items()
        }
    with tempfile.TemporaryDirectory(prefix="crnn_jax_formats_") as scratch:
        for name in FORMATS:
            folder = Path(scratch) / name
            folder.mkdir()
            form = load_format(name)
            form.write(model, folder, found.calibration)
            read = form.load(folder)
            proof = prove(model, form, read, found.samples)
            megabytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
            match, largest = proof["exact_match"], proof["largest_difference"]
            rows[name] = [
                f"{megabytes:.1f}",
                f"{match['exported']:.2%}" if match else "",
                f"{largest['logits']:.1e} ({largest['logits_relative']:.1e})",
            ]
            rows["Recognizer, jax"][1] = f"{match['jax']:.2%}" if match else ""
            if name != IN_A_BROWSER:
                programs[name] = {c: partial(read, batch) for c, batch in batches.items()}
        times = {
            count: take_turns({n: of[count] for n, of in programs.items()}, arguments.rounds)
            for count in BATCHES
        }
    table = Table("", title=f"{model.name}, {len(found.samples):,} images, timed {size}")
    for heading in ("MB", "exact match", "logits (relative)", *(f"ms, batch {c}" for c in BATCHES)):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        spent = (times[c].get(name) for c in BATCHES)
        table.add_row(name, *row, *(f"{1e3 * t.median:.1f}" if t else "" for t in spent))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
