"""Reads image files, writes a row of each, and compares the texts with labels."""

import itertools
from collections.abc import Callable, Iterable, Mapping

from crnn_jax.errors import DataError
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.rows import Row, to_row
from crnn_jax.text.metrics import TextMetrics


def read_files(
    recognizer: Recognizer,
    paths: Iterable[str],
    batch_size: int,
    labels: Mapping[str, str],
    write: Callable[[Row], None],
    report: Callable[[DataError], None],
    advance: Callable[[], None] = lambda: None,
) -> TextMetrics:
    """Reads image files in constant memory.

    Args:
      recognizer: reads them.
      paths: those of the images.
      batch_size: see `Recognizer.stream`.
      labels: path -> label of the images that have one.
      write: is called with the row of each image, in the order of `paths`.
      report: is called with the error, in its turn, of each image that cannot be read.
      advance: is called after each image.

    Returns:
      How many of the labels were read.
    """
    metrics = TextMetrics()
    normalize = recognizer.model.alphabet.normalize
    named, taken = itertools.tee(paths)
    results = recognizer.stream(taken, batch_size, return_errors=True)
    for path, result in zip(named, results, strict=True):
        label = labels.get(path)
        if isinstance(result, DataError):
            report(result)
        else:
            write(to_row(path, result, label))
        if label is not None:
            text = None if isinstance(result, DataError) else result.text
            metrics += TextMetrics.from_texts([text], [normalize(label)])
        advance()
    return metrics
