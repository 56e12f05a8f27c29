"""How every command ends: a user's mistake is one line and an exit code, never a traceback."""

import os
import platform
import sys
from collections.abc import Callable, Sequence

import platformdirs
from absl import logging

from crnn_jax.errors import CrnnError


def run_command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """`main` with the project's errors printed to standard error, exit code 1; Ctrl-C, 130."""

    def command(arguments: Sequence[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # the libraries' own progress is noise here
        keep_what_is_compiled()
        try:
            main(arguments)
        except CrnnError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)

    return command


def keep_what_is_compiled() -> None:
    """Has JAX keep its compiled programs in the user's cache folder, unless it is told where.

    To be called before jax is imported. Compiling takes about a minute of a first start on two
    cores; a second one reads what the first compiled. A folder for each machine, as home folders
    are shared between machines whose processors differ.
    """
    folder = platformdirs.user_cache_path("crnn_jax") / platform.node() / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
