"""Reads images with a trained model.

    python -m crnn_jax.predict --model runs/captcha INPUT...

An INPUT is an image file, a folder (the images in it and in its folders), a pattern in quotes such
as 'images/**/*.png', or -, which reads paths from standard input, one on each line. No config is
needed. Without --model the pretrained model `captcha` is used.

A line `path<TAB>text<TAB>confidence` is printed for each image. Characters that are not visible,
such as newlines in names, are written as `\\n`. --format csv writes CSV with a header, --format
jsonl a JSON object on each line. An image that cannot be read is reported on standard error, the
others are read, and the exit code is 1.

--output FILE writes to a file. Each line is complete as soon as it is written, so Ctrl-C loses
none; the same command with --resume then reads the images that FILE has no line of.

--labels FILE reads the images of a label file (lines `path<TAB>text`, or .csv or .jsonl), adds the
labels to the results, and prints how many texts are right on standard error.

--draw FOLDER draws each image with its characters, their probabilities at each time step, and other
likely texts. For one image it may be a file, such as --draw out.png.

--top 3 adds the 3 most likely texts and their probabilities: as columns, or in JSON as
`alternatives`.

--min_confidence 0.9 adds `accepted` to the results, true or false; --min_confidence auto takes the
confidence from which on 99 % of the texts were right on the model's validation images.

What is known of the texts helps to read them, such as --alphabet digits --length 5. So does
--same_source, if all images are of one source, such as a site.

`crnn-jax predict` does the same.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from crnn_jax.commands import (
    define_backend,
    define_decoding,
    define_model,
    prepare_jax,
    print_error,
    print_result,
    run,
)
from crnn_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from crnn_jax.recognition.recognizer import Recognizer
    from crnn_jax.recognition.rows import Row
    from crnn_jax.text.options import ReadingOptions

    Write = Callable[[Row], None]

FORMATS = ("tsv", "csv", "jsonl")

FLAGS = flags.FlagValues()
MODEL = define_model(FLAGS)
BACKEND = define_backend(FLAGS)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "The number of images read together.", lower_bound=1, flag_values=FLAGS
)
DECODING = define_decoding(FLAGS)
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    FORMATS,
    "How results are written; by default as the ending of --output says, or as tsv.",
    flag_values=FLAGS,
)
TOP = flags.DEFINE_integer(
    "top",
    0,
    "The number of likely texts to write for each image. The beam is as wide, and at least 10.",
    lower_bound=0,
    flag_values=FLAGS,
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The file for the results; by default standard output.", flag_values=FLAGS
)
RESUME = flags.DEFINE_bool(
    "resume", False, "Leaves out the images that --output has results of.", flag_values=FLAGS
)
LABELS = flags.DEFINE_string(
    "labels", None, "A label file; its images are read and compared with it.", flag_values=FLAGS
)
DRAW = flags.DEFINE_string(
    "draw",
    None,
    "The folder for drawings of what is read; for one image also a file, such as out.png.",
    flag_values=FLAGS,
)
MIN_CONFIDENCE = flags.DEFINE_string(
    "min_confidence",
    None,
    "Marks texts as accepted from this confidence on, such as 0.9; auto: 99 % of them are right.",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> None:
    """Reads the images named on the command line; exit code 1 if one of them cannot be read.

    Raises:
      ConfigError: flags do not go together.
      DataError: no image is named, or a file that is named cannot be used.
    """
    inputs = arguments[1:]
    _check(inputs)
    options = _options()
    from crnn_jax.recognition.image_files import find_images
    from crnn_jax.recognition.rows import ResultFile, RowWriter

    errors = _Errors()
    labels: dict[str, str] = {}
    if LABELS.value is None:
        paths = find_images(inputs, errors.report)
    else:
        from crnn_jax.data.sources.folder import read_labels

        labels = {str(path): label for path, label in read_labels(Path(LABELS.value)).items()}
        paths = iter(labels)
    ending = Path(OUTPUT.value or "").suffix[1:]
    form = FORMAT.value or (ending if ending in FORMATS else FORMATS[0])
    with contextlib.ExitStack() as stack:
        write = RowWriter(form, print_result, top=TOP.value)
        if OUTPUT.value is not None:
            output = stack.enter_context(ResultFile(Path(OUTPUT.value), form, RESUME.value))
            paths = itertools.filterfalse(output.has, paths)
            write = RowWriter(form, output.write, output.header, TOP.value)
        # Without an image no model is loaded, which takes a second.
        if first := list(itertools.islice(paths, 1)):
            paths = itertools.chain(first, paths)
            _read(paths, labels, options, write, errors.report, _total(inputs, labels))
    if errors.occurred:
        sys.exit(1)


def _options() -> "ReadingOptions":
    """How to read. If that needs JAX, the process is prepared for it, before anything is read."""
    from crnn_jax.recognition.backends import JAX, choose_backend
    from crnn_jax.text.options import BEAM_WIDTH, is_default

    options = DECODING()
    if TOP.value:
        options["beam_width"] = max(options.get("beam_width") or 0, BEAM_WIDTH, TOP.value)
    if choose_backend(BACKEND.value, is_default(options)) == JAX:
        prepare_jax()
    return options


class _Errors:
    """Prints errors, and remembers that there were some."""

    occurred = False

    def report(self, error: DataError) -> None:
        self.occurred = True
        print_error(error)


def _check(inputs: Sequence[str]) -> None:
    if LABELS.value is None and not inputs:
        raise DataError("name the images to read, such as captcha.png, a folder, or 'images/*.png'")
    if LABELS.value is not None and inputs:
        raise ConfigError(f"--labels names the images to read; leave out {inputs[0]!r}")
    if LABELS.value is not None and RESUME.value:
        raise ConfigError("--labels compares all images; leave out --resume")
    drawing = Path(DRAW.value or "")
    if _draws_one() and _total(inputs, {}) != 1:
        raise ConfigError(f"--draw {drawing} is one image; name a folder for several drawings")
    if _draws_one() and drawing.exists() and drawing.samefile(inputs[0]):
        raise ConfigError(f"--draw {drawing} is the image itself; choose another name")
    if RESUME.value and OUTPUT.value is None:
        raise ConfigError("--resume goes on with a file; name it with --output")


def _draws_one() -> bool:
    return DRAW.value is not None and DRAW.value.lower().endswith(".png")


def _total(inputs: Sequence[str], labels: Mapping[str, str]) -> int | None:
    """The number of images, if that is known without looking for them."""
    if labels:
        return len(labels)
    return len(inputs) if all(map(os.path.isfile, inputs)) and not RESUME.value else None


def _read(
    paths: Iterator[str],
    labels: Mapping[str, str],
    options: "ReadingOptions",
    write: "Write",
    report: Callable[[DataError], None],
    total: int | None,
) -> None:
    """Reads images with the model that the flags name; prints how many of the labels it read."""
    from crnn_jax.recognition.backends import choose_backend
    from crnn_jax.recognition.progress import image_progress
    from crnn_jax.recognition.read_files import read_files
    from crnn_jax.recognition.recognizer import SAMPLE, Recognizer
    from crnn_jax.text.options import is_default

    backend = choose_backend(BACKEND.value, is_default(options))
    same_source = options.pop("same_source", False)
    recognizer = Recognizer.load(MODEL.value, backend=backend, **options)
    if same_source:
        first = list(itertools.islice(paths, SAMPLE))
        recognizer, paths = recognizer.adapt(first), itertools.chain(first, paths)
    if MIN_CONFIDENCE.value is not None:
        least = recognizer.model.calibration.threshold(MIN_CONFIDENCE.value)
        write = _marking(write, least)
    if DRAW.value is not None:
        write = _drawing_too(write, recognizer, Path(DRAW.value))
    # Results on a terminal are progress enough.
    shown = OUTPUT.value is not None or not (sys.stdout and sys.stdout.isatty())
    with image_progress(total, shown) as advance:
        metrics = read_files(recognizer, paths, BATCH_SIZE.value, labels, write, report, advance)
    if labels:
        of = metrics.compute()
        line = (
            f"{of['count']:,} images: exact match {of['exact_match']:.2%}, caseless"
            f" {of['exact_match_caseless']:.2%}, CER {of['cer']:.2%}"
        )
        with contextlib.suppress(OSError):  # standard error may be closed
            print(line, file=sys.stderr)


def _marking(write: "Write", least: float) -> "Write":
    """A function that writes a row, and whether its confidence is at least that."""
    return lambda row: write({**row, "accepted": row["confidence"] >= least})


def _drawing_too(write: "Write", recognizer: "Recognizer", place: Path) -> "Write":
    """A function that writes a row, and then draws the image."""
    from crnn_jax.recognition.drawing import draw_explanation, drawing_name

    (place.parent if _draws_one() else place).mkdir(parents=True, exist_ok=True)

    def write_and_draw(row: "Row") -> None:
        write(row)
        path = row["path"]
        file = place if _draws_one() else place / drawing_name(path)
        draw_explanation(recognizer.explain(path)).save(file)

    return write_and_draw


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
