"""A folder that appears when it is complete, or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crnn_jax.errors import ConfigError


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`, which gets its name at the end.

    After an error, or Ctrl-C, nothing of it is left.

    Raises:
      ConfigError: there is something in the place of the target, or nothing can be written there.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; name a folder that does not, or move it away")
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    except OSError as error:
        raise ConfigError(
            f"no folder can be written at {target} ({error.strerror}); name another place"
        ) from error
    try:
        yield place
        place.chmod(0o755)  # tempfile keeps others out
        place.rename(target)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written ({error.strerror or error}); free some space, or name"
            " another place"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
