"""Image files by their paths: read, or an error in one line."""

import os
import stat
from pathlib import Path

from crnn_jax.errors import DataError


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that a path leads to a file. The file is not opened.

    Raises:
      DataError: there is nothing at the path, or a folder.
    """
    try:
        is_folder = stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if is_folder:
        raise DataError(f"{path} is a folder; name its images, such as {Path(path) / '*.png'}")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
      DataError: there is no file at the path, or it cannot be read.
    """
    check_path(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> DataError:
    # ValueError: a null character in the path.
    reason = error.strerror if isinstance(error, OSError) else error
    return DataError(f"cannot read image {os.fspath(path)!r}: {reason}; check the path")
