"""Reads images with a trained model.

    python -m crnn_jax.predict --model runs/captcha IMAGE...

prints a line `path<TAB>text<TAB>confidence` for each image. Characters that are not visible, such
as newlines in names, are written as `\\n`. With --json each line is a JSON object with these keys.
No config is needed. Without --model the pretrained model `captcha` is used. An image that cannot be
read is reported on standard error, and the others are read.

What is known of the texts helps to read them, such as --alphabet digits --length 5.

--top 3 adds the three most likely texts, with their probabilities: as columns
`text<TAB>probability` each, or with --json as `alternatives`.

`crnn-jax predict` does the same.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from absl import flags

from crnn_jax.commands import define_decoding, define_model, print_error, print_result, run
from crnn_jax.messages import escape

FLAGS = flags.FlagValues()
MODEL = define_model(FLAGS)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "The number of images read together.", lower_bound=1, flag_values=FLAGS
)
DECODING = define_decoding(FLAGS)
TOP = flags.DEFINE_integer(
    "top",
    0,
    "The number of alternatives to print. The beam is as wide, and at least 10.",
    lower_bound=0,
    flag_values=FLAGS,
)
JSON = flags.DEFINE_bool("json", False, "Prints a JSON object a line.", flag_values=FLAGS)


def main(arguments: Sequence[str]) -> None:
    """Reads the images named on the command line; exit code 1 if one of them cannot be read."""
    from crnn_jax.errors import DataError
    from crnn_jax.recognition.image_files import check_path

    paths: list[str] = []
    failed = False
    for path in arguments[1:]:
        try:
            check_path(path)
            paths.append(path)
        except DataError as error:
            failed = True
            print_error(error)
    if not paths and not failed:
        raise DataError("name the images to read, such as captcha.png or images/*.png")
    if paths:
        from crnn_jax.decoding.options import DEFAULT_BEAM_WIDTH
        from crnn_jax.recognition.recognizer import Recognizer

        options = DECODING()
        if TOP.value:
            wanted = options.get("beam_width") or 0
            options["beam_width"] = max(wanted, DEFAULT_BEAM_WIDTH, TOP.value)
        recognizer = Recognizer.load(MODEL.value, **options)
        results = recognizer.stream(paths, BATCH_SIZE.value, return_errors=True)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, DataError):
                failed = True
                print_error(result)
            elif JSON.value:
                row = {"path": path, "text": result.text, "confidence": result.confidence}
                if TOP.value:
                    row["alternatives"] = list(map(asdict, result.alternatives[: TOP.value]))
                print_result(json.dumps(row))
            else:
                columns = [escape(path), escape(result.text), f"{result.confidence:.4f}"]
                for other in result.alternatives[: TOP.value]:
                    columns += escape(other.text), f"{other.probability:.4f}"
                print_result("\t".join(columns))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
