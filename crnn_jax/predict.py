"""Reads images with a trained model.

    python -m crnn_jax.predict --model runs/captcha IMAGE...

prints a line `path<TAB>text<TAB>confidence` for each. The model's folder knows all the rest.
Without --model the pretrained model `captcha` reads. An image that cannot be read is named; the
others are read all the same.

`crnn-jax predict` does the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from crnn_jax.commands import define_model, print_error, print_result, run

if TYPE_CHECKING:
    import numpy as np

FLAGS = flags.FlagValues()
MODEL = define_model(FLAGS)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "The number of images read together.", lower_bound=1, flag_values=FLAGS
)


def main(arguments: Sequence[str]) -> None:
    """Reads the images named on the command line; exit code 1 if one of them cannot be read."""
    from crnn_jax.errors import DataError
    from crnn_jax.recognition.recognizer import Recognizer

    paths = list(map(Path, arguments[1:]))
    if not paths:
        raise DataError("name images to read")
    recognizer = Recognizer.load(MODEL.value)
    failed = False
    for start in range(0, len(paths), BATCH_SIZE.value):
        readable: list[Path] = []
        images: list[np.ndarray] = []
        for path in paths[start : start + BATCH_SIZE.value]:
            try:
                images.append(recognizer.prepare(path.read_bytes(), str(path)))
                readable.append(path)
            except (DataError, OSError) as error:
                failed = True
                print_error(error)
        for path, recognition in zip(readable, recognizer.read(images), strict=True):
            print_result(f"{path}\t{recognition.text}\t{recognition.confidence:.4f}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
