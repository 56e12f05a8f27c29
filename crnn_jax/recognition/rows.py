"""Rows of results: written as lines of TSV, CSV or JSON, and found again by whoever resumes."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeAlias

from crnn_jax.errors import DataError
from crnn_jax.files import open_file
from crnn_jax.messages import escape
from crnn_jax.recognition.results import Recognition

Row: TypeAlias = dict[str, Any]
"""What is written about an image, in JSON types; the first key is `path`."""


def to_row(path: str, read: Recognition, label: str | None = None) -> Row:
    """What was read in an image, and its label if it has one.

    Lists and dicts in a row are written in JSON alone; the rest are columns of TSV and CSV.
    """
    row: Row = {
        **{"path": path, "text": read.text, "confidence": read.confidence},
        "characters": [dataclasses.asdict(character) for character in read.characters],
    }
    return row if label is None else {**row, "label": label}


def to_line(row: Row, form: str) -> str:
    """A row as one line without its end, in one of the formats tsv, csv and jsonl.

    In TSV and CSV, characters that are not visible are written as escapes such as `\\n`.
    """
    if form == "jsonl":
        return json.dumps(row)
    cells = [_cell(value) for value in row.values() if not isinstance(value, list | dict)]
    return "\t".join(cells) if form == "tsv" else _csv(cells)


def header(row: Row) -> str:
    """The names of the columns of a row, as the first line of CSV."""
    return _csv(key for key, value in row.items() if not isinstance(value, list | dict))


class ResultFile:
    """A file of results that only grows: each line is written at once and whole.

    Attributes:
      header: the first line, if it has one: of CSV.
    """

    def __init__(self, path: Path, form: str, resume: bool) -> None:
        """Opens a file for lines of a format.

        Args:
          path: the file. One that is not empty is opened to resume only.
          form: tsv, csv or jsonl.
          resume: add to what the file has. A last line that ends too early is removed. 8 bytes are
            kept of the path of each row, about 100 MB for a million of them.

        Raises:
          DataError: there are results already, those of the file are of another format, or it
            cannot be read or written.
        """
        self.header = ""
        self._path, self._form = path, form
        self._done: set[bytes] = set()
        try:
            if resume and path.exists():
                whole = self._read()
                os.truncate(path, whole)
            elif path.is_file() and path.stat().st_size:
                raise DataError(
                    f"{path} has results already; add --resume to go on with it, or choose another"
                    " --output"
                )
            # Without a buffer, as the process may end between any two lines.
            self._file = path.open("ab", buffering=0)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, path: str) -> bool:
        """Whether the file had a row of this image when it was opened."""
        return bool(self._done) and _digest(self._name(path)) in self._done

    def write(self, line: str) -> None:
        """Adds a line.

        Raises:
          DataError: it cannot be written.
        """
        data = memoryview((line + "\n").encode("utf-8", "surrogateescape"))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._unusable(error) from error

    def _name(self, path: str) -> str:
        """The path of an image as its row has it."""
        return path if self._form == "jsonl" else escape(path)

    def _read(self) -> int:
        """Notes which images have rows; returns the number of bytes of all whole lines."""
        whole = 0
        with open_file(self._path, sys.maxsize) as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n") and number > 1:
                    break
                whole += len(data)
                line = data[:-1].decode("utf-8", "surrogateescape")
                try:
                    if not data.endswith(b"\n"):
                        raise ValueError("a file of one line without an end may be anything")
                    if self._form == "csv" and number == 1:
                        self.header = _checked_header(line)
                    else:
                        self._done.add(_digest(_PATHS[self._form](line)))
                except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
                    raise DataError(
                        f"{self._path}:{number}: this is no result as {self._form}; choose the"
                        " --format of the file, or another --output"
                    ) from error
        return whole

    def _unusable(self, error: OSError | ValueError) -> DataError:
        reason = error.strerror if isinstance(error, OSError) else error
        return DataError(
            f"{str(self._path)!r} cannot be written: {reason}; choose another --output"
        )


class RowWriter:
    """Writes rows as lines of a format; CSV begins with the names of the columns."""

    def __init__(self, form: str, write: Callable[[str], None], header: str = "") -> None:
        """Takes a function that writes a line, and the header if that is written already."""
        self._form, self._write, self._header = form, write, header

    def __call__(self, row: Row) -> None:
        """Writes a row.

        Raises:
          DataError: the rows before it have other columns.
        """
        if self._form == "csv":
            names = header(row)
            if not self._header:
                self._header = names
                self._write(names)
            if names != self._header:
                raise DataError(
                    f"the columns were {self._header} and are now {names}; choose another --output"
                )
        self._write(to_line(row, self._form))


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value)


def _csv(cells: Iterable[str]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow(cells)
    return file.getvalue()


def _checked_header(line: str) -> str:
    if line.split(",")[:3] != ["path", "text", "confidence"]:
        raise ValueError("these are other columns")
    return line


def _path_in_tsv(line: str) -> str:
    path, _, confidence = line.split("\t")[:3]
    float(confidence)
    return path


def _path_in_csv(line: str) -> str:
    (cells,) = csv.reader([line], strict=True)
    path, _, confidence = cells[:3]
    float(confidence)
    return path


def _path_in_json(line: str) -> str:
    row = json.loads(line)
    float(row["confidence"])
    return row["path"]


_PATHS: dict[str, Callable[[str], str]] = {
    "tsv": _path_in_tsv,
    "csv": _path_in_csv,
    "jsonl": _path_in_json,
}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
