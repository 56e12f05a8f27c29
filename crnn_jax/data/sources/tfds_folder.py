"""Checks of a TFDS data set's folder before TFDS reads it, for it can name code to run."""

import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crnn_jax.errors import DataError
from crnn_jax.files import check_inside, open_file, read_file, trusted

_MAX_BYTES = 1 << 26  # of a file that TFDS reads whole
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # the last one in old files


def check_folder(folder: Path) -> None:
    """Checks all that is stored of a data set, in all its versions.

    TFDS imports the module of each class that `features.json` names. Its own features are allowed,
    but no others.

    Args:
        folder: the folder of the data set; it need not exist.

    Raises:
        DataError: there is a feature that is not TFDS's own, a file that is not regular or is too
            large, or a link out of the folder.
    """
    for path in _entries(folder):
        try:
            if path.is_dir():
                check_inside(path, folder)
            elif path.name == "features.json":
                _check_features(read_file(path, _MAX_BYTES, folder), path)
            else:
                whole = path.suffix in (".json", ".txt")  # records are read one at a time
                open_file(path, _MAX_BYTES if whole else sys.maxsize, folder).close()
        except FileNotFoundError:
            pass  # another process is preparing the data set, and renames what it has written
        except (OSError, ValueError, RecursionError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise DataError(
                f"cannot read {str(path)!r} of a TFDS data set ({reason}); copy or prepare the data"
                " set again"
            ) from error


def _entries(folder: Path) -> Iterator[Path]:
    """All folders and files of a data set."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # nothing is stored
            raise DataError(
                f"cannot read the folder {error.filename!r} of a TFDS data set ({error.strerror});"
                " check its permissions"
            ) from error

    # A link out of the folder is refused, and what it points to inside of the folder is checked.
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=trusted()):
        for name in (*folders, *files):
            yield Path(parent, name)


def _check_features(content: bytes, path: Path) -> None:
    import tensorflow_datasets as tfds

    own: set[str] = set()
    for kind in vars(tfds.features).values():
        if inspect.isclass(kind) and issubclass(kind, tfds.features.FeatureConnector):
            own |= {f"{kind.__module__}.{kind.__name__}", *kind.ALIASES}
    for name in _classes(json.loads(content.decode("utf-8"))):
        if name not in own:
            raise DataError(
                f"{str(path)!r} names the feature {name!r}, which is not one of TFDS's own; its"
                " code is not run: prepare the data set with features of tfds.features alone"
            )


def _classes(value: Any) -> Iterator[str]:
    """The names of classes in what was JSON. A text can be JSON itself, as TFDS nests it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _CLASS_KEYS and isinstance(inner, str):
                yield inner
            else:
                yield from _classes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner)
    elif isinstance(value, str):
        try:
            nested = json.loads(value)
        except ValueError:
            return
        yield from _classes(nested)
