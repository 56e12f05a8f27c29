"""Files: opened only if they are regular, not too large, and in place; and written whole."""

import os
import stat
import tempfile
from typing import BinaryIO

TRUSTED = "CRNN_JAX_TRUSTED"
"""Environment variable: with `1`, data and models are one's own. See `trusted`."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class RefusedFile(OSError):
    """A file that is not read: not a regular file, too large, or reached by a link out of a folder.

    Like any OSError it has `strerror`, the reason, and `filename`.
    """

    def __init__(self, reason: str, path: str | os.PathLike[str]) -> None:
        super().__init__(0, reason, os.fspath(path))

    def __reduce__(self) -> tuple[type["RefusedFile"], tuple[str, str]]:
        return type(self), (self.strerror or "", self.filename)


def trusted() -> bool:
    """Whether data and models are the user's own, as the environment says.

    Links out of a folder are then followed, and models may have any size.
    """
    return os.environ.get(TRUSTED) == "1"


def open_file(
    path: str | os.PathLike[str], max_bytes: int, folder: str | os.PathLike[str] | None = None
) -> BinaryIO:
    """Opens a file for reading, without waiting: a FIFO or a device is refused.

    Args:
        path: the file.
        max_bytes: the largest size.
        folder: the folder that the file has to be in, also after following links; None for a file
            that the user has named.

    Raises:
        RefusedFile: it is not a regular file, too large, or outside of `folder`.
        OSError: it cannot be opened.
        ValueError: the path contains a null character.
    """
    if folder is not None:
        check_inside(path, folder)
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # opening a device may do something
        raise RefusedFile("it is not a regular file", path)
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
        return file
    file.close()
    if not stat.S_ISREG(status.st_mode):
        raise RefusedFile("it is not a regular file", path)
    raise RefusedFile(f"it has {status.st_size:,} bytes, more than {max_bytes:,}", path)


def read_file(
    path: str | os.PathLike[str], max_bytes: int, folder: str | os.PathLike[str] | None = None
) -> bytes:
    """Returns the content of a file; see `open_file`.

    Raises: as `open_file`.
    """
    with open_file(path, max_bytes, folder) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
        if len(data) > size:  # it grows, or is one of /proc's, which have no size
            data += file.read(max_bytes - size)
    if len(data) > max_bytes:
        raise RefusedFile(f"it has more than {max_bytes:,} bytes", path)
    return data


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole, in a folder that is made; other processes may write it meanwhile.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    folder = os.path.dirname(os.fspath(path))  # noqa: PTH120
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    descriptor, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def check_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Checks that links do not lead out of a folder.

    Raises:
        RefusedFile: they do.
        OSError, ValueError: it cannot be found out.
    """
    if trusted():
        return
    place, root = os.path.realpath(path), os.path.realpath(folder)
    if place != root and not place.startswith(os.path.join(root, "")):  # noqa: PTH118
        raise RefusedFile(
            f"it is a link out of the folder {os.fspath(folder)!r}; copy what it points to, or set"
            f" {TRUSTED}=1 if the data are your own",
            path,
        )
