"""What a source finds in a folder that may come from anyone."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from crnn_jax.errors import DataError

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


def is_file(path: Path) -> bool:
    """Path.is_file as it was until Python 3.13; later versions hide errors of permission.

    Raises:
        OSError: it cannot be found out.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """As `is_file`, for folders."""
    return stat.S_ISDIR(_mode(path))


def files_below(directory: Path) -> Iterator[Path]:
    """Yields the paths in a folder that are no folders. Links to folders are not followed.

    Raises:
        OSError: the folder or one in it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(directory, onerror=fail):
        for name in names:
            yield Path(place, name)


@contextlib.contextmanager
def errors_of(directory: Path) -> Iterator[None]:
    """A context that raises an OSError about a folder or something in it as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {str(error.filename or directory)!r} ({error.strerror}); check the path"
            " and its permissions"
        ) from error


def require_folder(directory: Path) -> None:
    """Checks that there is a folder.

    Raises:
        DataError: there is none, or that cannot be found out.
    """
    with errors_of(directory):
        if not is_folder(directory):
            raise DataError(f"there is no folder {str(directory)!r}; check the path")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except ValueError:  # a null character
        return 0
    except OSError as error:
        if error.errno in _MISSING:
            return 0
        raise
