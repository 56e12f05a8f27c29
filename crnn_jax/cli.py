"""The console script `crnn-jax`: all commands under one name."""

import importlib
import sys
from collections.abc import Sequence

from crnn_jax import __version__
from crnn_jax.commands import print_error, print_result, run
from crnn_jax.errors import ConfigError, CrnnError

# Name: the module of the command, arguments that it always gets, and what it does.
COMMANDS = {
    "train": ("main", ("--mode=train",), "trains a text recognizer"),
    "eval": ("main", ("--mode=eval",), "evaluates a run on its test images, or on other ones"),
    "predict": ("predict", (), "reads images"),
    "score": ("score", (), "scores a model on several labeled sets, in one table"),
    "report": ("report", (), "compares two evaluations, or renders the report of one again"),
    "language-model": ("language_model", (), "trains a language model from a list of words"),
    "export": ("export", (), "writes a model in the form of another program, with a proof"),
    "import": ("import_weights", (), "imports weights of PyTorch"),
    "check-data": ("check_data", (), "looks for mistakes in labeled images"),
}


def main(command_line: Sequence[str] | None = None) -> None:
    """Runs the command that is named first; without one, or with --help, lists them."""
    program, *arguments = sys.argv if command_line is None else command_line
    name, *rest = arguments or ["--help"]
    if name in COMMANDS:
        module_name, fixed, _ = COMMANDS[name]
        module = importlib.import_module(f"crnn_jax.{module_name}")
        run(module.main, module.FLAGS, module.__doc__, [program, *fixed, *rest])
        return
    try:
        if name not in ("--help", "-h", "help"):
            raise ConfigError(f"there is no command {name}; choose from {', '.join(COMMANDS)}")
        width = max(map(len, COMMANDS))
        print_result(f"Usage: crnn-jax COMMAND [FLAGS]   (crnn-jax {__version__})\n")
        for known, (_, _, description) in COMMANDS.items():
            print_result(f"  {known:<{width}}  {description}")
        print_result("\n`crnn-jax COMMAND --help` shows the flags of a command.")
    except CrnnError as error:
        print_error(error)
        sys.exit(1)
