"""How commands start, print and end: a mistake is one line and an exit code, never a traceback."""

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from crnn_jax.compiler import enable_compilation_cache, set_cpu_flags
from crnn_jax.errors import ConfigError, CrnnError
from crnn_jax.huge_pages import restart_with_huge_pages

OUTPUT_CLOSED = 128 + 13  # what a shell reports of a program that SIGPIPE has ended
# How a system says that nobody reads what is written.
CLOSED = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)


def run_command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """`main` with the project's errors printed to standard error, exit code 1.

    Ctrl-C and SIGTERM end the process at once, but where training waits for the end of a step.
    """

    def command(arguments: Sequence[str]) -> None:
        restart_with_huge_pages()
        absl_logging.set_verbosity(absl_logging.ERROR)  # the libraries' own progress is noise here
        warnings = logging.StreamHandler()
        warnings.setFormatter(logging.Formatter("warning: %(message)s"))
        project = logging.getLogger("crnn_jax")
        project.addHandler(warnings)
        project.setLevel(logging.WARNING)  # else absl's level would hold for the project, too
        project.propagate = False
        # Python would wait for the end of a compilation before it raises KeyboardInterrupt. Where
        # Ctrl-C is not for this process, as in the background of a script, it stays so.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        enable_compilation_cache()
        set_cpu_flags()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Whatever the system's own encoding; names of files that are none stay as they are.
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        try:
            main(arguments)
        except CrnnError as error:
            _fail(error)

    return command


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """What absl leaves of a command line, for `app.run`; a mistake in it is one line as well."""
    try:
        return read_flags(arguments)
    except CrnnError as error:
        _fail(error)


def read_flags(arguments: Sequence[str]) -> list[str]:
    """Gives the flags their values.

    Raises:
      ConfigError: a flag is unknown or a value cannot be used; a config, or one of its settings,
        is not there.
    """
    try:
        rest = flags.FLAGS(list(arguments))
        for name in flags.FLAGS:  # a config that was not found says so when it is looked into
            hasattr(flags.FLAGS[name].value, "keys")
        return rest
    except Exception as error:  # ml_collections and the config's own code raise what they like
        # Of a traceback put into a message, as ml_collections does, the end tells the user enough.
        start, traceback, rest = (
            str(error).replace("\\n", "\n").replace("\\'", "'").partition("Traceback ")
        )
        text = start + rest.strip().rpartition("\n")[2] if traceback else start
        text = " ".join(text.split()) or type(error).__name__
        raise ConfigError(
            f"command line: {text}; see --help, and the file of the config"
        ) from error


def print_result(line: str) -> None:
    """Prints a line to standard output, at once.

    Where nobody reads it any more, as after `| head`, the process ends without a word.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        # What could not be written goes nowhere, else the interpreter would try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)


def print_error(error: Exception) -> None:
    """Prints a line to standard error."""
    print(f"error: {error}", file=sys.stderr)


def _fail(error: CrnnError) -> NoReturn:
    print_error(error)
    sys.exit(1)
