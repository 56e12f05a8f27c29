"""Parquet files as Hugging Face stores its sets of images."""

import bisect
import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_jax.data.sources.split import Split, nfc
from crnn_jax.errors import ConfigError, CrnnError, DataError

MAX_GROUP_BYTES = 1 << 30
"""Of the images in a row group, which is read as a whole; Hugging Face's have some 100 MB."""
_ROWS = 64  # decoded in one go, so that a file whose sizes lie is noticed early
_CACHED = 4  # row groups: one for each thread that reads ahead


def load_parquet(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Read 'train' and 'test', 'test' alone, or 'all' from the Parquet files in `settings["dir"]`.

    The file's name begins with that of its split (`train-00000-of-00002.parquet`), or its folder
    has it (`test/0000.parquet`); other files count only if there are none of these. Where there is
    no 'test', what there is is 'all'. `image_field` and `text_field` are the names of the columns.
    Images are bytes, or `{bytes, path}`, of which the path is not looked at. Texts are read now,
    images on demand.

    Raises:
        ConfigError: no folder is set, or there are no such columns.
        DataError: there are no such files, or one cannot be read.
    """
    if not settings["dir"]:
        raise ConfigError("the data source 'parquet' needs its folder; set --config.data.dir=DIR")
    directory = Path(settings["dir"])
    files: dict[str, list[Path]] = {"train": [], "test": [], "all": []}
    for file in sorted(directory.rglob("*.parquet")):
        names = (re.split(r"[-_.]", file.name)[0], file.parent.name)
        files[next((name for name in names if name in ("train", "test")), "all")].append(file)
    if not any(files.values()):
        raise DataError(f"there are no .parquet files in the folder {str(directory)!r}; check it")
    if not files["test"]:
        return {"all": _read(directory, files["train"] or files["all"], settings)}
    found = (name for name in ("train", "test") if files[name])
    return {name: _read(directory, files[name], settings) for name in found}


def _read(directory: Path, files: list[Path], settings: Mapping[str, Any]) -> Split:
    image, text = settings["image_field"], settings["text_field"]
    groups: list[_Group] = []
    starts: list[int] = []
    names: list[str] = []
    labels: list[str] = []
    for path in files:
        with _open(path) as file:
            for field, setting in ((image, "image_field"), (text, "text_field")):
                if field not in file.schema_arrow.names:
                    raise ConfigError(
                        f"{path} has no column {field!r}; set --config.data.{setting} to one of "
                        f"{', '.join(file.schema_arrow.names)}"
                    )
            rows, size = file.metadata.num_rows, path.stat().st_size
            if rows > size:
                raise ValueError(f"it says that it has {rows:,} images in {size:,} bytes")
            names += [f"{path.relative_to(directory).as_posix()}:{row}" for row in range(rows)]
            for number in range(file.num_row_groups):
                texts = _values(file, number, text)
                if not all(isinstance(value, str | None) for value in texts):
                    raise ConfigError(
                        f"the column {text!r} of {path} is no text; set --config.data.text_field to"
                        " the one that is"
                    )
                groups.append(_Group(path, number, image))
                starts.append(len(labels))
                labels += [nfc(value or "") for value in texts]
            if len(names) != len(labels):
                raise ValueError(f"it says that it has {rows:,} texts, which is not so")
    if not names:
        raise DataError(f"the Parquet file {str(files[0])!r} has no rows; leave it out")
    return Split(tuple(names), tuple(labels), _Images(tuple(groups), tuple(starts)))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The open file; what goes wrong with it is a DataError."""
    import pyarrow.parquet

    try:
        # Not mapped into memory: a file that is cut off meanwhile would kill the process.
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except CrnnError:
        raise
    except Exception as error:  # there is hardly one that damaged files do not raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read the Parquet file {str(path)!r}: {reason[:200]}; get it anew, or leave it"
            " out"
        ) from error


def _values(file: Any, group: int, column: str) -> list[Any]:
    """The texts of a row group, or its images; what is neither is left as it is."""
    values: list[Any] = []
    size = 0
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
        found = [
            row["bytes"] if isinstance(row, dict) and "bytes" in row else row
            for row in batch.column(0).to_pylist()
        ]
        # Equal values may share their bytes in the batch, but not in the list.
        size += max(batch.nbytes, sum(len(one) for one in found if isinstance(one, str | bytes)))
        values += found
        if size > MAX_GROUP_BYTES:
            raise ValueError(
                f"{column} has more than {MAX_GROUP_BYTES:,} bytes in row group {group}; write it"
                " with a smaller row_group_size"
            )
    return values


@dataclass(frozen=True)
class _Group:
    """The images of a row group, the least that Parquet can read at a time."""

    path: Path
    number: int
    column: str

    @functools.lru_cache(_CACHED)  # noqa: B019, as it is a value, and so few are kept
    def images(self) -> list[Any]:
        with _open(self.path) as file:
            return _values(file, self.number, self.column)


@dataclass(frozen=True)
class _Images:
    groups: tuple[_Group, ...]
    starts: tuple[int, ...]  # the first row of each group

    def __call__(self, index: int) -> bytes:
        place = bisect.bisect_right(self.starts, index) - 1
        group, row = self.groups[place], index - self.starts[place]
        image = next(iter(group.images()[row : row + 1]), None)
        if not isinstance(image, bytes):
            raise DataError(
                f"row {row} of row group {group.number} of {str(group.path)!r} has no bytes of a "
                f"image in its column {group.column!r}; set --config.data.image_field, or write "
                "the file with the images in it"
            )
        return image
