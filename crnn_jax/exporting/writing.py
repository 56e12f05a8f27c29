"""Exporting: a folder is written, proved and only then given its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crnn_jax.exporting.formats import load_format
from crnn_jax.exporting.new_folder import new_folder
from crnn_jax.exporting.proof import prove
from crnn_jax.exporting.proof_images import find_images, with_variants
from crnn_jax.recognition.progress import image_progress
from crnn_jax.recognition.trained_model import TrainedModel

PROOF = "proof.json"
COMPARED, COUNTED = 100, 1000  # images, at most: where texts have to be equal, and elsewhere


def export(
    model_name: str | Path | None,
    format_name: str,
    folder: Path,
    images: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes a trained model in another form, once it has read real images as JAX does.

    Args:
      model_name: a workdir, or the name of a pretrained model; None for the default one.
      format_name: a key of `FORMATS`.
      folder: where to; it must not exist.
      images: a folder of images or an LMDB database to test with; by default the test images of
        the run.
      say: is called with a line about each step, as they take a while.

    Returns:
      The proof, which is also in the folder, see `prove`.

    Raises:
      ConfigError: the format is unknown, its runtime is not installed, the folder exists, or it
        cannot be written.
      CheckpointError: there is no such model, or it cannot be read.
      DataError: there are no images, or none can be read.
      ExportFailed: the exported model reads something else. Nothing is left of it.
    """
    form = load_format(format_name)
    with new_folder(folder) as place:
        model = TrainedModel.load(model_name)
        found = find_images(model, images, COUNTED if form.tolerance is None else COMPARED)
        say(f"writing {model.name}, step {model.step}, as {form.name}")
        form.write(model, place, found.calibration)
        say(f"comparing it with JAX on {len(found.samples):,} images: {found.source}")
        samples = with_variants(found.samples, model.preprocessing)
        with image_progress(len(samples), shown=True) as advance:
            proof = prove(model, form, form.load(place), samples, advance)
        proof["images"] |= {"source": found.source, "unreadable": found.unreadable}
        proof["bytes"] = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        text = json.dumps(proof, indent=2, ensure_ascii=False, allow_nan=False)
        (place / PROOF).write_text(text + "\n", encoding="utf-8")
    return proof
