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
from crnn_jax.files import RefusedFile, check_inside, read_file

# What a file system without locks reports, such as some network drives.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

# What a run writes. Anything else in a workdir is the user's, and is left alone; so is a README.md
# that the run did not write.
ENTRIES = ("checkpoints", "lock", "report", "tensorboard", "trace")
REWRITTEN = ("lock.json", "metrics.jsonl", "predictions.png")
TEMPORARY = ".tmp"  # suffix of such a file until it is whole
MAX_HOLDER_BYTES = 10_000

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """A context in which only this process writes to `workdir`, which is created if missing.

    The operating system holds the lock and releases it when the process ends, however it ends, so
    a lock never has to be removed by hand.

    A workdir may come from anyone. Its own path may be a link, but no link in it may lead out.

    Raises:
      ConfigError: another process uses the workdir, it cannot be written, or a file in it may not
        be used.
    """
    # No soft lock: it is a file that stays when its process is killed.
    lock = filelock.FileLock(workdir / "lock", timeout=0, fallback_to_soft=False)
    holder = workdir / "lock.json"  # a file of its own, as Windows lets nobody read a locked one
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        _check_entries(workdir)
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
            rewrite(holder, text.encode())
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
        # Path.is_dir would raise if the name is too long.
        vanished = "" if os.path.isdir(workdir) else ", and it does not exist"  # noqa: PTH112
        raise ConfigError(
            f"workdir {workdir} cannot be written ({reason}){vanished};"
            " fix that and start the same command again, or choose another --workdir"
        ) from error


def rewrite(path: Path, data: bytes) -> None:
    """Writes a file whole: it has the old content or the new one, and other links to it stay."""
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.unlink(missing_ok=True)
    temporary.write_bytes(data)
    temporary.replace(path)


def _check_entries(workdir: Path) -> None:
    temporary = (name + TEMPORARY for name in REWRITTEN)
    for entry in (workdir / name for name in (*ENTRIES, *REWRITTEN, *temporary)):
        for path in (entry, *entry.rglob("*")):
            try:
                check_inside(path, workdir)
            except RefusedFile as error:
                raise ConfigError(f"{path} cannot be used: {error.strerror}") from error
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ConfigError(f"{path} is neither a file nor a folder; remove it")


def _read_holder(file: Path) -> str:
    try:
        holder = json.loads(read_file(file, MAX_HOLDER_BYTES))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # it may be written at this moment
        return "another process"
