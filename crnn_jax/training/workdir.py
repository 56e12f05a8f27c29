"""The workdir: one run at a time, and a one-line error if it cannot be written."""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from crnn_jax.errors import ConfigError

# What a file system without locks reports, such as some network drives.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """A context in which only this process writes to `workdir`, which is created if missing.

    The operating system holds the lock and releases it when the process ends, however it ends, so
    a lock never has to be removed by hand.

    Raises:
      ConfigError: another process uses the workdir, or it cannot be written.
    """
    # No soft lock: it is a file that stays when its process is killed.
    lock = filelock.FileLock(workdir / "lock", timeout=0, fallback_to_soft=False)
    holder = workdir / "lock.json"  # a file of its own, as Windows lets nobody read a locked one
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ConfigError(
                f"workdir {workdir} is in use by {_read_holder(holder)}; wait for it, stop it, or"
                " choose another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                "the file system of %s has no locks; do not start a second run there", workdir
            )
    try:
        with writing(workdir):
            text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            holder.write_text(text, encoding="utf-8")
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """A context for writing to `workdir`, and for nothing else that may raise OSError.

    Raises:
      ConfigError: instead of an OSError, with the reason and what to do.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or 'one of its files'}"
        vanished = "" if workdir.is_dir() else ", and it does not exist"
        raise ConfigError(
            f"workdir {workdir} cannot be written ({reason}){vanished};"
            " fix that and start the same command again, or choose another --workdir"
        ) from error


def _read_holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # it may be written at this moment
        return "another process"
