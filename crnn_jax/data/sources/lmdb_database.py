"""LMDB databases in the layout of the scene-text community."""

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_jax.data.extras import import_extra
from crnn_jax.data.image_headers import MAX_BYTES
from crnn_jax.data.sources.label_files import MAX_LINE
from crnn_jax.data.sources.paths import errors_of, is_file
from crnn_jax.data.sources.split import Split, nfc
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.files import open_file

FILE = "data.mdb"


def load_lmdb(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Reads 'train' and 'test', one of them alone, or 'all' from databases in `settings["dir"]`.

    'train' and 'test' are databases in sub-folders of these names; 'all' is a database in the
    folder itself. A database has the key `num-samples`, and `image-%09d` and `label-%09d` counted
    from 1. MJSynth, SynthText and the benchmarks are distributed in this layout. The texts are read
    now, the images on demand.

    Raises:
        ConfigError: no folder is set, or the package lmdb is not installed.
        DataError: there is no such database, `num-samples` is missing, or a text is not UTF-8.
    """
    if not settings["dir"]:
        raise ConfigError("the data source 'lmdb' needs a folder; set --config.data.dir=DIR")
    directory = Path(settings["dir"])
    places = {"all": directory, "train": directory / "train", "test": directory / "test"}
    with errors_of(directory):
        found = {name: place for name, place in places.items() if is_database(place)}
        if "all" in found:
            found = {"all": directory}
        for place in found.values():  # of any size, as it is not read as a whole
            open_file(place / FILE, sys.maxsize, directory).close()
    if not found:
        raise DataError(
            f"{str(directory)!r} is not an LMDB database (it has no data.mdb), and it has no"
            " databases in train/ or test/; check the path"
        )
    return {name: _open(path) for name, path in found.items()}


def is_database(directory: Path) -> bool:
    """Whether there is a database in a folder.

    Raises:
        OSError: it cannot be found out.
    """
    return is_file(directory / FILE)


def _open(directory: Path) -> Split:
    with _transaction(directory) as transaction:
        entries = _environment(directory).stat()["entries"]
        count = int(_value(transaction, b"num-samples", 20) or -1)
        if count > entries:
            raise ValueError(f"num-samples is {count:,}, but there are {entries:,} entries")
        texts = [
            _value(transaction, b"label-%09d" % (i + 1), MAX_LINE) or b"" for i in range(count)
        ]
    if count < 1:
        raise DataError(
            f"the LMDB database {str(directory)!r} has no images under the key num-samples;"
            " scene-text sets have num-samples, image-000000001, label-000000001 ..."
        )
    names = tuple(f"image-{index + 1:09d}" for index in range(count))
    labels: list[str] = []
    for name, text in zip(names, texts, strict=True):
        try:
            labels.append(nfc(text.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{directory}: the label of {name} is not UTF-8: {text[:80]!r}; store it as UTF-8"
            ) from error
    return Split(names, tuple(labels), _Images(directory))


@contextlib.contextmanager
def _transaction(directory: Path) -> Iterator[Any]:
    """A transaction that reads; what is wrong with the database is raised as a DataError."""
    lmdb = import_extra("lmdb", "lmdb")
    try:
        with _environment(directory).begin(buffers=True) as transaction:
            yield transaction
    except (lmdb.Error, ValueError) as error:
        raise DataError(f"cannot read the LMDB database {str(directory)!r}: {error}") from error


def _value(transaction: Any, key: bytes, most: int) -> bytes | None:
    """A value of at most `most` bytes; a damaged database may claim that one has gigabytes."""
    value = transaction.get(key)
    if value is not None and len(value) > most:
        raise ValueError(f"{key.decode()} has {len(value):,} bytes, more than {most:,}")
    return None if value is None else bytes(value)


_opening = threading.Lock()


def _environment(directory: Path) -> Any:
    """The open database. LMDB allows one per process, whichever thread opens it."""
    with _opening:
        return _opened(directory)


@functools.cache
def _opened(directory: Path) -> Any:
    import lmdb

    # Nothing is written, so no lock is needed, and the disk may be read-only. There is no reading
    # ahead because images are read in random order.
    environment = lmdb.open(str(directory), readonly=True, lock=False, readahead=False)
    # LMDB maps the file into memory. Touching a page beyond its end would kill the process.
    size = (directory / FILE).stat().st_size
    whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:
        environment.close()
        raise lmdb.CorruptedError(f"the file is cut off after {size:,} of {whole:,} bytes")
    return environment


@dataclass(frozen=True)
class _Images:
    directory: Path

    def __call__(self, index: int) -> bytes:
        name = f"image-{index + 1:09d}"
        with _transaction(self.directory) as transaction:
            image = _value(transaction, name.encode(), MAX_BYTES)
        if image is None:
            raise DataError(
                f"the LMDB database {str(self.directory)!r} has no {name}, although num-samples"
                " counts it; create the database again, or leave it out"
            )
        return image
