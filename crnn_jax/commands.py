"""How every command ends: a user's mistake is one line and an exit code, never a traceback."""

import importlib.metadata
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import platformdirs
from absl import flags
from absl import logging as absl_logging

from crnn_jax.errors import ConfigError, CrnnError


def run_command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """`main` with the project's errors printed to standard error, exit code 1.

    Ctrl-C and SIGTERM end the process at once, but where training waits for the end of a step.
    """

    def command(arguments: Sequence[str]) -> None:
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
        keep_what_is_compiled()
        choose_convolutions()
        try:
            main(arguments)
        except CrnnError as error:
            _fail(error)

    return command


def keep_what_is_compiled() -> None:
    """Has JAX keep its compiled programs in the user's cache folder, unless it is told where.

    To be called before jax is imported. Compiling takes about a minute of a first start on two
    cores; a second one reads what the first compiled. A folder for each machine, as home folders
    are shared between machines whose processors differ.
    """
    folder = platformdirs.user_cache_path("crnn_jax") / platform.node() / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def choose_convolutions() -> None:
    """Has XLA leave convolutions on a CPU to its own kernels; YNNPACK keeps the matrix products.

    To be called before JAX compiles anything. YNNPACK's convolutions are the default of jaxlib
    0.10. On two Zen 3 cores they take up to half as long again as XLA's own, and the weight
    gradient of 32 x 16 x 96 x 32 to 64 channels 477 ms instead of 31.
    """
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    # Flags that it does not know end a process, so only versions get it that are known to have it.
    major, minor, patch = importlib.metadata.version("jaxlib").split(".")[:3]
    known = (major, minor) == ("0", "10") and patch not in ("0", "1")
    if known and flag not in os.environ.get("XLA_FLAGS", ""):
        chosen = f"{flag}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {chosen}".strip()


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


def _fail(error: CrnnError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
