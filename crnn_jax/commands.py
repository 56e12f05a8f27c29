"""How every command ends: a user's mistake is one line and an exit code, never a traceback."""

import sys
from collections.abc import Callable, Sequence

from absl import logging

from crnn_jax.errors import CrnnError


def run_command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """`main` with the project's errors printed to standard error, exit code 1; Ctrl-C, 130."""

    def command(arguments: Sequence[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # the libraries' own progress is noise here
        try:
            main(arguments)
        except CrnnError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)

    return command
