"""Image files by their paths: read, or an error in one line."""

import os
from pathlib import Path

from crnn_jax import files
from crnn_jax.data.image_headers import MAX_BYTES
from crnn_jax.errors import DataError


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that a path leads to a file that can be read. The file is opened, but not read.

    Raises:
      DataError: it leads to nothing, to a folder, or to what is no plain file.
    """
    try:
        files.open_file(path, MAX_BYTES).close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
      DataError: there is no plain file at the path, or it cannot be read.
    """
    try:
        return files.read_file(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> DataError:
    if isinstance(error, files.RefusedFile) and Path(path).is_dir():
        return DataError(f"{path} is a folder; name its images, such as {Path(path) / '*.png'}")
    # ValueError: a null character in the path.
    reason = error.strerror if isinstance(error, OSError) else error
    return DataError(f"cannot read image {os.fspath(path)!r}: {reason}; check the path")
