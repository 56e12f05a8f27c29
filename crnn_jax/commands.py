"""How commands start, print and end: a mistake is one line and an exit code, never a traceback.

A command is a module with a docstring, which is its help, flags in a `FlagValues` of its own, and
a function `main`. Flags of its own let several commands be imported together.
"""

import contextlib
import errno
import faulthandler
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from crnn_jax.compiler import configure_jax, repair_compilation_cache
from crnn_jax.errors import ConfigError, CrnnError
from crnn_jax.huge_pages import restart_with_huge_pages
from crnn_jax.messages import one_line
from crnn_jax.recipes import Config, no_such_setting, recipes, settings_of

if TYPE_CHECKING:
    from crnn_jax.text.options import ReadingOptions

OUTPUT_CLOSED = 128 + 13  # what a shell reports of a program that SIGPIPE has ended
# How a system says that nobody reads what is written.
CLOSED = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)

flags.disclaim_key_flags()  # a flag that is defined here belongs to the module that asked for it

HELP = ("--help", "-help", "-h")
FLAG_FILES = ("--flagfile", "-flagfile")  # absl would read any file, even one without an end
LONGEST = 200  # characters of a flag's name; absl compares unknown ones with all flags, recursively
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


def run(
    main: Callable[[Sequence[str]], None],
    values: flags.FlagValues,
    description: str | None,
    command_line: Sequence[str] | None = None,
) -> None:
    """Runs a command to its end; the project's errors become one line and exit code 1.

    Ctrl-C and SIGTERM end the process at once, except where training waits for the end of a step.

    Args:
      main: takes the program's name and the arguments that are no flags; with a flag `config`
        also the overrides, for `override`.
      values: the flags of the command.
      description: the help, shown above the flags.
      command_line: the program's name and its arguments; those of the process by default.
    """
    command_line = sys.argv if command_line is None else command_line
    try:
        if any(argument in HELP for argument in command_line[1:]):
            print_result(_help(values, description or ""))
            return
        arguments = parse_flags(values, command_line)
        _prepare_process()
        if "backend" not in values:  # such a command may do without JAX
            prepare_jax()
        main(arguments)
    except CrnnError as error:
        print_error(error)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print_error(CrnnError(f"{error.filename!r}: {error.strerror}; check the path"))
        sys.exit(1)


def define_config(values: flags.FlagValues, default: str | None = None) -> flags.FlagHolder[Any]:
    """Defines the flag `config` of a command, whose settings `override` reads."""
    return flags.DEFINE_string(
        "config",
        default,
        "A recipe, such as captcha:quick, or a file, such as configs/captcha.py:quick."
        " --config.KEY=VALUE changes one of its settings, such as --config.data.dir=DIR.",
        flag_values=values,
    )


def define_model(values: flags.FlagValues) -> flags.FlagHolder[Any]:
    """Defines the flag `model` of a command."""
    return flags.DEFINE_string(
        "model",
        None,
        "A workdir, or the name of a pretrained model; by default the pretrained model captcha.",
        flag_values=values,
    )


def define_backend(values: flags.FlagValues) -> flags.FlagHolder[Any]:
    """Defines the flag `backend` of a command, which calls `prepare_jax` if it reads with JAX."""
    return flags.DEFINE_enum(
        "backend",
        "auto",
        ("auto", "jax", "onnx"),
        "What runs the network. onnx starts sooner and is faster on a CPU; auto takes it where that"
        ' is so and it is installed: pip install "crnn_jax[onnx]".',
        flag_values=values,
    )


def prepare_jax() -> None:
    """Prepares a process for JAX, which must not be imported yet. It may start again."""
    restart_with_huge_pages()
    configure_jax()
    repair_compilation_cache()


def define_decoding(values: flags.FlagValues) -> Callable[[], "ReadingOptions"]:
    """Defines the flags of `ReadingOptions`: what is known of the texts, and how to read them.

    Returns:
      A function that returns their values. It raises ConfigError if one of them cannot be used.
    """
    alphabet = flags.DEFINE_string(
        "alphabet",
        None,
        "The characters that occur, such as 0123456789, or digits, lower, upper, letters,"
        " digits+lower, digits+upper, alphanumeric, or all that the model knows.",
        flag_values=values,
    )
    length = flags.DEFINE_string(
        "length", None, "The number of characters, such as 5, or 4-8.", flag_values=values
    )
    shape = flags.DEFINE_string(
        "shape",
        None,
        "A regular expression of the whole text, such as '[A-Z]{3}-[0-9]{4}'.",
        flag_values=values,
    )
    lexicon = flags.DEFINE_string(
        "lexicon",
        None,
        "A file of the words that may occur: UTF-8, one a line, the most likely first.",
        flag_values=values,
    )
    caseless = flags.DEFINE_bool(
        "caseless", False, "Reads in lower case: both cases of a letter count.", flag_values=values
    )
    beam = flags.DEFINE_integer(
        "beam",
        None,
        "Reads with a beam search that follows so many texts, such as 10.",
        flag_values=values,
    )
    language_model = flags.DEFINE_string(
        "language_model",
        None,
        "A language model of characters, an ARPA file. The beam is then 10 wide by default.",
        flag_values=values,
    )
    language_weight = flags.DEFINE_float(
        "language_weight", 0.5, "How much the language model counts.", flag_values=values
    )

    same_source = flags.DEFINE_bool(
        "same_source",
        False,
        "Takes the images to be of one source, such as a site: their characters and lengths are"
        " learned from what is read in the others.",
        flag_values=values,
    )

    def options() -> "ReadingOptions":
        from crnn_jax.recognition.word_files import read_language_model, read_words
        from crnn_jax.text.constraints import parse_length

        arpa = language_model.value
        return {
            "alphabet": alphabet.value,
            "length": None if length.value is None else parse_length(length.value),
            "shape": shape.value,
            "lexicon": None if lexicon.value is None else list(read_words(lexicon.value)),
            "caseless": caseless.value,
            "beam_width": beam.value,
            "language_model": None if arpa is None else read_language_model(arpa),
            "language_weight": language_weight.value,
            "same_source": same_source.value,
        }

    return options


def parse_flags(values: flags.FlagValues, command_line: Sequence[str]) -> list[str]:
    """Gives the flags their values; returns the program's name and the other arguments.

    Raises:
      ConfigError: a flag is unknown, or a value cannot be used.
    """
    try:
        for name in (argument.partition("=")[0] for argument in command_line[1:]):
            if name in FLAG_FILES:
                raise ValueError("files of flags are not supported")
            if name.startswith("-") and len(name) > LONGEST:
                raise ValueError(f"there is no flag {name[:30]}...")
        rest = values(command_line, known_only="config" in values)
        if "config" in values:
            # Overrides wait for the config. Any other flag that is left is unknown.
            unknown = (a for a in rest[1:] if a.startswith("-") and not OVERRIDE.match(a))
            values([rest[0], *unknown])
        return rest
    except (flags.Error, ValueError) as error:
        _fail_to_parse(error)


def override(config: Config, arguments: Sequence[str]) -> None:
    """Changes settings of a config as `--config.KEY=VALUE` says, and locks it.

    Args:
      config: a recipe's.
      arguments: the program's name and overrides.

    Raises:
      ConfigError: there is no such setting, the value is of another type, or an argument is no
        override.
    """
    known = settings_of(config)
    for argument in arguments:
        if (found := OVERRIDE.match(argument)) and found[1] not in known:
            raise ConfigError(f"command line: {no_such_setting(found[1], known)}")
    config.lock()
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=list(arguments)
        )
        rest = values(arguments)
    except Exception as error:  # ml_collections raises many types
        _fail_to_parse(error)
    if rest[1:]:
        raise ConfigError(f"command line: what is {rest[1]!r}? see --help")


def print_result(line: str) -> None:
    """Prints a line to standard output, at once.

    If nobody reads it any more, as after `| head`, the process ends without an error message.

    Raises:
      CrnnError: it cannot be written.
    """
    if sys.stdout is None:
        raise CrnnError("standard output is closed, so there is no place for the results")
    try:
        print(line, flush=True)
    except OSError as error:
        # Otherwise the interpreter would try to write the rest of the output when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno in CLOSED:
            sys.exit(OUTPUT_CLOSED)
        raise CrnnError(
            f"the results cannot be written to standard output ({error.strerror}); write them to"
            " another place"
        ) from error


def print_error(error: Exception) -> None:
    """Prints a line to standard error, if that is possible."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"error: {error}", file=sys.stderr)


class _OneLine(logging.Formatter):
    """Names and texts in a message cannot begin another line, or change the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return one_line(super().formatMessage(record))


def _open_streams() -> None:
    """Opens the standard streams that are closed: another file would get their numbers.

    Libraries write to them by number, and would write into that file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # also for worker processes
    os.close(number)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _prepare_process() -> None:
    _open_streams()
    faulthandler.enable()
    flags.FLAGS(sys.argv[:1])  # libraries read their own flags, which keep their defaults
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.ERROR)  # the libraries' own progress is noise here
    warnings = logging.StreamHandler()
    warnings.setFormatter(_OneLine("warning: %(message)s"))
    project = logging.getLogger("crnn_jax")
    project.addHandler(warnings)
    project.setLevel(logging.WARNING)  # otherwise absl's level would apply to the project, too
    project.propagate = False
    # Python would raise KeyboardInterrupt only at the end of a compilation. If the process ignores
    # Ctrl-C, as in the background of a script, it continues to do so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            # Independent of the system's encoding. File names that are not UTF-8 are not changed.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _help(values: flags.FlagValues, description: str) -> str:
    """The help of a command: its description, its flags, and the recipes if it takes one."""
    flag_lines = values.get_help(include_special_flags=False).strip().splitlines()[1:]
    lines = [description.strip(), "", "Flags:", *flag_lines]
    if "config" in values:
        described = recipes()
        width = max(map(len, described))
        lines += ["", "Recipes:", *(f"  {name:<{width}}  {of}" for name, of in described.items())]
    return "\n".join(lines)


def _fail_to_parse(error: Exception) -> NoReturn:
    text = " ".join(str(error).split()) or type(error).__name__
    raise ConfigError(f"command line: {text}; see --help") from error
