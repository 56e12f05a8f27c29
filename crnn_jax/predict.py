"""Reads pictures with a trained model.

    python -m crnn_jax.predict --model runs/captcha IMAGE...

prints a line `path<TAB>text<TAB>confidence` for each. The model's folder knows all the rest.
Without --model the boxed model captcha reads.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from crnn_jax.commands import parse_flags, print_result, run_command

MODEL = flags.DEFINE_string(
    "model", None, "A workdir, or the name of a boxed model; without it, the boxed one captcha."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Pictures read together.", lower_bound=1)


def main(arguments: Sequence[str]) -> None:
    """Reads the pictures named on the command line."""
    from crnn_jax.errors import DataError
    from crnn_jax.recognition.recognizer import Recognizer

    paths = list(map(Path, arguments[1:]))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(f"no such picture: {missing[0]}" if missing else "name pictures to read")
    recognizer = Recognizer.load(MODEL.value)
    for start in range(0, len(paths), BATCH_SIZE.value):
        chunk = paths[start : start + BATCH_SIZE.value]
        read = recognizer([path.read_bytes() for path in chunk], [str(path) for path in chunk])
        for path, recognition in zip(chunk, read, strict=True):
            print_result(f"{path}\t{recognition.text}\t{recognition.confidence:.4f}")


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=parse_flags)
