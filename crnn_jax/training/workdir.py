"""The workdir: one run at a time, and one line when it cannot be written."""

import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crnn_jax.errors import ConfigError

LOCK_BYTE = 2**30  # far behind the text: Windows lets nobody read a byte that is locked

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """A context in which this process alone writes into `workdir`, which is made if missing.

    The lock is the operating system's own, on the file `lock`. The system drops it when its holder
    dies, in whatever way, so that there is no stale lock to recognize.

    Raises:
      ConfigError: another process has the workdir, or writing into it failed.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "lock").open("a+", encoding="utf-8") as file:
            if not _lock(file):
                raise ConfigError(
                    f"workdir {workdir} is in use by {_holder(file)}; wait for it, stop it, or"
                    " choose another --workdir"
                )
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
            yield
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or 'one of its files'}"
        vanished = "" if workdir.is_dir() else ", and it is not there"
        raise ConfigError(
            f"workdir {workdir} cannot be written ({reason}){vanished};"
            " mend that and start the same command again, or choose another --workdir"
        ) from error


def _lock(file: IO[str]) -> bool:
    """Locks an open file for this process, unless it is locked already."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file.fileno(), LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("the file system of %s has no locks; start no second run there", file.name)
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, TypeError, KeyError):  # it is being written at this moment
        return "another process"
