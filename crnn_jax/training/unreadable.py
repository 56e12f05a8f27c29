"""What could not be read is not damaged: telling a lack of permission from wrong content."""

import errno
import os
import re
from pathlib import Path
from typing import NoReturn

from crnn_jax.errors import CheckpointError, DamagedCheckpoint

# What a system says of a file that is missing, or is no file: the folder is not as it was saved.
# Any other error, such as a lack of permission or of memory, says nothing about the content.
_OF_CONTENT = (0, None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# tensorstore, which reads the arrays, has texts for all errors. Most have the system's number.
_NUMBER = re.compile(r"os_error_code='(\d+)'")
_STATUS = re.compile(r"PERMISSION_DENIED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED")


def check_damage(folder: Path, error: DamagedCheckpoint) -> None:
    """Checks that `error` is about the content of a checkpoint's folder.

    Raises:
      CheckpointError: it is about reading it, or one of the files cannot be read.
    """
    try:
        if (cause := error.__cause__) and not _about_content(cause):
            raise cause
        for place, _, names in os.walk(folder, onerror=_raise):
            for path in (Path(place) / name for name in names):
                if path.is_file() and not path.is_symlink():
                    _read_through(path)
    except Exception as unread:
        if not _about_content(unread):
            raise cannot_read(folder, unread) from error


def cannot_read(path: Path, error: Exception) -> CheckpointError:
    """The error for a checkpoint that may be undamaged, but cannot be read now."""
    return CheckpointError(
        f"{getattr(error, 'filename', None) or path} cannot be read ({reason(error)}); it may be"
        " undamaged, so nothing was changed: mend that and start the same command again"
    )


def reason(error: Exception) -> str:
    """Why a library failed: what the system says, else the first line of pages that may follow."""
    text = str(error)
    if number := _NUMBER.search(text):
        return os.strerror(int(number[1]))
    lines = text.partition(" [tensorstore_spec")[0].splitlines()
    return getattr(error, "strerror", None) or (lines or [type(error).__name__])[0][:300]


def _about_content(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _OF_CONTENT
    number = _NUMBER.search(str(error))
    if number and int(number[1]) not in _OF_CONTENT:
        return False
    return not isinstance(error, MemoryError) and not _STATUS.match(str(error))


def _read_through(path: Path) -> None:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        # A sparse file may claim to have terabytes; no more is read than it takes of the disk.
        left = min(status.st_size, 512 * getattr(status, "st_blocks", status.st_size))
        while left > 0 and (data := file.read(min(left, 2**20))):
            left -= len(data)


def _raise(error: OSError) -> NoReturn:
    raise error
