"""Label files: lines of images and their texts, as .tsv, .csv or .jsonl."""

import contextlib
import csv
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from crnn_jax.data.sources.split import quoted
from crnn_jax.errors import DataError
from crnn_jax.files import open_file

MAX_BYTES = 1 << 30
"""The largest label file. MJSynth's, for nine million images, have 0.5 GB."""

MAX_LINE = 1_000_000
"""Characters of the longest line."""

_NAMES = ("file_name", "filename", "file", "path", "image", "name")
_LABELS = ("text", "label", "transcription", "words", "word")


@dataclass(frozen=True)
class Row:
    """An image and its label, as written in a label file.

    Attributes:
        place: `file:line`, for messages.
        name: the path of the image.
        label: the text, with all its spaces; it may be empty.
    """

    place: str
    name: str
    label: str


def read_rows(file: Path, root: Path) -> Iterator[Row]:
    """Yields the rows of a UTF-8 label file in the folder `root`. Its ending tells the format.

    - `.tsv`: lines of image, tab, text. The text is everything after the first tab.
    - `.csv`: two columns, image and text; texts with commas are quoted. The first line may name the
      columns, such as `file_name` and `text`. They can then be in any order, and among others.
    - `.jsonl`: a JSON object on each line, with the same names as keys.

    Lines end as on any system.

    Raises:
        DataError: the file cannot be read or is not UTF-8, or a line cannot be used.
    """
    with contextlib.closing(_lines(file, root)) as lines:
        yield from ENDINGS[file.suffix](file, lines)


def _tsv(file: Path, lines: Iterator[str]) -> Iterator[Row]:
    for place, line in _places(file, lines):
        name, tab, label = line.partition("\t")
        if not tab:
            raise DataError(f"{place}: there is no tab in {quoted(line)}; write image, tab, text")
        yield Row(place, name, label)


def _csv(file: Path, lines: Iterator[str]) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    columns: tuple[int, int] | None = None  # of image and text
    width = 2  # columns of each line
    while True:
        place = f"{file}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{place}: this is not CSV ({error}); write image,text") from error
        if not cells:
            continue
        if columns is None:
            keys = [cell.strip().lower() for cell in cells]
            name, label = _pick(keys, _NAMES), _pick(keys, _LABELS)
            if name and label:
                columns, width = (keys.index(name), keys.index(label)), len(keys)
                continue
            columns = 0, 1
        if len(cells) != width:
            raise DataError(
                f"{place}: {len(cells)} column(s) instead of {width}; write image,text, and quote"
                ' texts with commas: a.png,"one, two"'
            )
        yield Row(place, cells[columns[0]], cells[columns[1]])


def _jsonl(file: Path, lines: Iterator[str]) -> Iterator[Row]:
    for place, line in _places(file, lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{place}: this is not JSON ({error}); write one object on each line"
            ) from error
        if isinstance(entry, dict):
            name, label = _pick(entry, _NAMES), _pick(entry, _LABELS)
            if name and label and isinstance(entry[name], str) and isinstance(entry[label], str):
                yield Row(place, entry[name], entry[label])
                continue
        raise DataError(
            f"{place}: there is no image or no text in {quoted(line)}; write"
            ' {"file_name": ..., "text": ...}'
        )


ENDINGS = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
"""Ending of a label file -> function that reads it, given its path and its lines."""


def _pick(keys: list[str] | dict[str, object], wanted: tuple[str, ...]) -> str | None:
    return next((key for key in wanted if key in keys), None)


def _lines(file: Path, root: Path) -> Generator[str, None, None]:
    """Yields the lines with their ends, whichever those are."""
    number = 0
    try:
        # Bytes that are not UTF-8 become surrogates here, so that their line can be named.
        with io.TextIOWrapper(
            open_file(file, MAX_BYTES, root), "utf-8-sig", "surrogateescape", newline=""
        ) as content:
            while line := content.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise DataError(
                        f"{file}:{number}: the line has {MAX_LINE:,} characters or more; write one"
                        " image and its text on each line"
                    )
                line.encode()
                yield line
    except OSError as error:
        raise DataError(
            f"cannot read the label file {str(file)!r} ({error.strerror}); check the path and its"
            " permissions"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{file}:{number}: this is not UTF-8; save the file as UTF-8") from error


def _places(file: Path, lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yields (file:line, content) of the lines that are not blank."""
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line.strip(" "):
            yield f"{file}:{number}", line
