"""Parquet files of images in the layout of Hugging Face."""

import bisect
import contextlib
import errno
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crnn_jax.data.extras import import_extra
from crnn_jax.data.sources.parquet_pages import Chunk, column_chunks, page_sizes
from crnn_jax.data.sources.paths import errors_of, files_below, require_folder
from crnn_jax.data.sources.split import Split, nfc
from crnn_jax.errors import ConfigError, CrnnError, DataError
from crnn_jax.files import open_file

MAX_GROUP_BYTES = 1 << 30
"""The largest column of images in a row group; those of Hugging Face have about 100 MB."""

MAX_TEXT_BYTES = 1 << 28
"""The largest size of all texts of a split, as they stay in memory."""

_LEAST = 20  # bytes of a row in a file; the smallest images have 26
_ROWS = 64  # decoded at a time
_BATCH = 1 << 27  # bytes decoded at a time
_RATIO = 10  # of a large page's size to that in the file; images are hardly compressed
_BUFFER = 1 << 20  # bytes of a file read at a time; by default a whole column of a row group


def load_parquet(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Reads 'train' and 'test', 'test' alone, or 'all' from the Parquet files in `settings["dir"]`.

    A file belongs to the split that its name begins with (`train-00000-of-00002.parquet`) or that
    its folder is named after (`test/0000.parquet`). Other files are used only if there are none of
    these. Without 'test', the files are 'all'. `image_field` and `text_field` name the columns.
    Images are bytes, or `{bytes, path}`, whose path is ignored. The texts are read now, the images
    on demand.

    Raises:
        ConfigError: no folder is set, a column is missing, or pyarrow is not installed.
        DataError: there are no such files, or one cannot be read.
    """
    if not settings["dir"]:
        raise ConfigError("the data source 'parquet' needs a folder; set --config.data.dir=DIR")
    directory = Path(settings["dir"])
    require_folder(directory)
    with errors_of(directory):
        paths = sorted(path for path in files_below(directory) if path.suffix == ".parquet")
    files: dict[str, list[Path]] = {"train": [], "test": [], "all": []}
    for file in paths:
        names = (re.split(r"[-_.]", file.name)[0], file.parent.name)
        files[next((name for name in names if name in ("train", "test")), "all")].append(file)
    if not any(files.values()):
        raise DataError(f"the folder {str(directory)!r} has no .parquet files; check the path")
    if not files["test"]:
        return {"all": _read(directory, files["train"] or files["all"], settings)}
    found = (name for name in ("train", "test") if files[name])
    return {name: _read(directory, files[name], settings) for name in found}


def _read(directory: Path, files: list[Path], settings: Mapping[str, Any]) -> Split:
    image, text = settings["image_field"], settings["text_field"]
    groups: list[_Group] = []
    names: list[str] = []
    labels: list[str] = []
    room = MAX_TEXT_BYTES
    for path in files:
        with _open(path, directory) as (opened, file):
            for field, setting in ((image, "image_field"), (text, "text_field")):
                if field not in file.schema_arrow.names:
                    raise ConfigError(
                        f"{path} has no column {field!r}; set --config.data.{setting} to one of"
                        f" {', '.join(file.schema_arrow.names)}"
                    )
            if not _holds(file.schema_arrow.field(text).type, "string", "null"):
                raise ConfigError(
                    f"the column {text!r} of {path} is not a text; set --config.data.text_field to"
                    " the column that is"
                )
            column = _image_column(file.schema_arrow, image)
            rows, size = file.metadata.num_rows, path.stat().st_size
            if rows * _LEAST > size:
                raise ValueError(f"it claims to have {rows:,} images in {size:,} bytes")
            names += [f"{path.relative_to(directory).as_posix()}:{row}" for row in range(rows)]
            for number, chunks in enumerate(column_chunks(opened)):
                start = len(labels)
                chunk = chunks.get(column)
                groups.append(_Group(path, directory, number, image, column, chunk, start))
                texts = _values(opened, file, number, text, chunks[text], room)
                labels += (nfc(value or "") for value in texts)
                room -= sum(map(len, labels[start:]))
            if len(names) != len(labels):
                raise ValueError(f"it claims to have {rows:,} texts, but has fewer or more")
    if not names:
        raise DataError(f"the Parquet file {str(files[0])!r} has no rows; leave it out")
    return Split(tuple(names), tuple(labels), _Images(groups, len(names)))


@contextlib.contextmanager
def _open(path: Path, directory: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """The open file, and its ParquetFile; what is wrong with it is raised as a DataError."""
    parquet = import_extra("pyarrow.parquet", "parquet")
    try:
        # Not mapped into memory: truncating a mapped file would kill the process.
        with (
            open_file(path, sys.maxsize, directory) as opened,
            parquet.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False) as file,
        ):
            yield opened, file
    except CrnnError:
        raise
    except Exception as error:  # damaged files raise nearly any of them
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"cannot read the Parquet file {str(path)!r}: {reason[:400]}; download it again, or"
            " leave it out"
        ) from error


def _holds(kind: Any, *names: str) -> bool:
    """Whether a type of Arrow is one of these, also in a dictionary or for large values."""
    import pyarrow

    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return str(kind).removeprefix("large_").removesuffix("_view") in names


def _image_column(schema: Any, field: str) -> str:
    """The column of the images' bytes; "" if there is none."""
    import pyarrow

    kind = schema.field(field).type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        field, kind = f"{field}.bytes", kind.field("bytes").type
    return field if _holds(kind, "binary") else ""


def _values(
    opened: BinaryIO, file: Any, group: int, column: str, chunk: Chunk, most: int
) -> Iterator[Any]:
    """The texts of a row group, or its images: `most` bytes at most."""
    row_group = file.metadata.row_group(group)
    if not row_group.num_rows:  # such a group has no pages
        return
    too_large = ValueError(
        f"{column} has more than {most:,} bytes in row group {group}; write the file with a smaller"
        " row_group_size"
    )
    total = 0
    for packed, size in page_sizes(opened, chunk, row_group.num_rows):
        if size > max(_BATCH, _RATIO * packed):
            raise ValueError(f"a page of {packed:,} bytes of {column} unpacks to {size:,}")
        total += size
        if total > most:
            raise too_large
    # A dictionary stores equal values once, so a small column can have many large values. None is
    # larger than the column, which says how many of them there is room for.
    rows = min(max(_BATCH // max(total, 1), 1), _ROWS)
    for batch in file.iter_batches(rows, row_groups=[group], columns=[column]):
        values = batch.column(0)
        for entry in values if column == batch.schema.names[0] else values.field(0):  # of a struct
            value = entry.as_py()
            most -= len(value or "")
            if most < 0:
                raise too_large
            yield value


@dataclass(frozen=True)
class _Group:
    """The images of a row group."""

    path: Path
    directory: Path  # that the file has to be in
    number: int
    field: str
    column: str  # that has the bytes; "" if none has
    chunk: Chunk | None  # where that column is
    start: int  # index of its first image


class _Images:
    """Reads images by index.

    Parquet can only decode a row group from its beginning, and training reads images in random
    order. Therefore each row group is decoded once, a few rows at a time, when the first of its
    images is read. All its images are then copied to a temporary file, which is deleted when this
    object is, and read from there.
    """

    def __init__(self, groups: Sequence[_Group], count: int) -> None:
        self._groups = groups
        self._starts = [group.start for group in groups]
        self._failures: dict[int, str] = {}  # row group -> why it cannot be decoded
        self._unpacked: set[int] = set()  # row groups
        self._offsets = np.zeros(count, np.int64)  # in the temporary file
        self._sizes = np.full(count, -1)  # bytes; -1 for rows without an image
        # Unbuffered, so that a full disk is noticed when an image is written, not later.
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            prefix="crnn_jax_", suffix=".images", buffering=0
        )
        weakref.finalize(self, file.close)
        self._file: Any = file
        self._lock = threading.Lock()

    def __call__(self, index: int) -> bytes:
        place = bisect.bisect_right(self._starts, index) - 1
        group = self._groups[place]
        with self._lock:
            self._unpack(place)
            if place in self._failures:
                raise DataError(self._failures[place])
            if self._sizes[index] < 0:
                raise DataError(
                    f"row {index - group.start} of row group {group.number} of {str(group.path)!r}"
                    f" has no image bytes in the column {group.field!r}; set"
                    " --config.data.image_field, or write the file with its images in it"
                )
            self._file.seek(self._offsets[index])
            return self._file.read(self._sizes[index])

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes read the temporary file of this one, so everything has to be in it.
        with self._lock:
            for place in range(len(self._groups)):
                self._unpack(place)
        return {**self.__dict__, "_file": self._file.name, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = Path(state["_file"]).open("rb", buffering=0)  # noqa: SIM115
        weakref.finalize(self, file.close)
        self.__dict__ = {**state, "_file": file, "_lock": threading.Lock()}

    def _unpack(self, place: int) -> None:
        if place in self._unpacked:
            return
        self._unpacked.add(place)
        group = self._groups[place]
        end = (*self._starts, len(self._sizes))[place + 1]
        try:
            offset = self._file.seek(0, 2)
            with _open(group.path, group.directory) as (opened, file):
                images = (
                    _values(opened, file, group.number, group.column, group.chunk, MAX_GROUP_BYTES)
                    if group.chunk
                    else ()
                )
                for index, image in zip(range(group.start, end), images, strict=False):
                    if isinstance(image, bytes):
                        self._offsets[index], self._sizes[index] = offset, len(image)
                        offset += self._write(image)
        except DataError as error:
            self._failures[place] = str(error)

    def _write(self, image: bytes) -> int:
        try:
            if self._file.write(image) < len(image):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(image)
        except OSError as error:
            raise DataError(
                f"cannot unpack a Parquet file to {self._file.name!r} ({error.strerror}); make room"
                " there, or set TMPDIR to a folder with room for all its images"
            ) from error
