"""LMDB databases as the scene-text community ships its sets."""

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from crnn_jax.data.sources.split import Split, nfc
from crnn_jax.errors import ConfigError, DataError


def load_lmdb(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Read 'train' and 'test', one of them alone, or 'all' from the databases in `settings["dir"]`.

    'train' and 'test' are databases in folders of these names; 'all' is a database in the folder
    itself. A database has the keys `num-samples`, and `image-%09d` and `label-%09d` from 1 on, as
    MJSynth, SynthText and the benchmarks are passed on. Texts are read now, images on demand.

    Raises:
        ConfigError: no folder is set.
        DataError: there is no such database, or it lacks `num-samples`, or a text is not UTF-8.
    """
    if not settings["dir"]:
        raise ConfigError("the data source 'lmdb' needs its folder; set --config.data.dir=DIR")
    directory = Path(settings["dir"])
    if _is_database(directory):
        return {"all": _open(directory)}
    parts = {name: directory / name for name in ("train", "test") if _is_database(directory / name)}
    if not parts:
        raise DataError(
            f"{str(directory)!r} is no LMDB database (it has no data.mdb) and holds none called "
            "train or test; check the path"
        )
    return {name: _open(path) for name, path in parts.items()}


def _is_database(directory: Path) -> bool:
    return (directory / "data.mdb").is_file()


def _open(directory: Path) -> Split:
    try:
        environment = _environment(directory)
        entries = environment.stat()["entries"]
        with environment.begin() as transaction:
            count = int(transaction.get(b"num-samples") or -1)
            if count > entries:
                raise ValueError(f"num-samples says {count:,} where there are {entries:,} entries")
            texts = [transaction.get(b"label-%09d" % (i + 1)) or b"" for i in range(count)]
    except (lmdb.Error, ValueError) as error:
        raise DataError(f"cannot read the LMDB database {str(directory)!r}: {error}") from error
    if count < 1:
        raise DataError(
            f"the LMDB database {str(directory)!r} has no images under the key num-samples; "
            "scene-text sets have num-samples, image-000000001, label-000000001 ..."
        )
    names = tuple(f"image-{index + 1:09d}" for index in range(count))
    labels: list[str] = []
    for name, text in zip(names, texts, strict=True):
        try:
            labels.append(nfc(text.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{directory}: the label of {name} is not UTF-8: {text!r}; store it as UTF-8"
            ) from error
    return Split(names, tuple(labels), _Images(directory))


_opening = threading.Lock()


def _environment(directory: Path) -> Any:
    """The open database: one in each process, as LMDB asks, whichever thread is the first."""
    with _opening:
        return _opened(directory)


@functools.cache
def _opened(directory: Path) -> Any:
    # Nobody writes: no locks, so that a read-only disk will do. Images are read in random order.
    environment = lmdb.open(str(directory), readonly=True, lock=False, readahead=False)
    # LMDB maps the file into memory: to touch a page behind its end would kill the process.
    size = (directory / "data.mdb").stat().st_size
    whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:
        environment.close()
        raise lmdb.CorruptedError(f"it is cut off, {size:,} of {whole:,} bytes are there")
    return environment


@dataclass(frozen=True)
class _Images:
    directory: Path

    def __call__(self, index: int) -> bytes:
        name = f"image-{index + 1:09d}"
        try:
            with _environment(self.directory).begin() as transaction:
                image = transaction.get(name.encode())
        except lmdb.Error as error:
            raise DataError(f"cannot read {name} of {str(self.directory)!r}: {error}") from error
        if image is None:
            raise DataError(
                f"the LMDB database {str(self.directory)!r} has no {name}, though num-samples "
                "counts it; make the database anew, or leave it out"
            )
        return image
