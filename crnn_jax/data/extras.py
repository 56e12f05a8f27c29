"""Optional packages: each belongs to an extra and is imported when it is first needed."""

import importlib
from typing import Any

from crnn_jax.errors import ConfigError


def import_extra(module: str, extra: str) -> Any:
    """Imports a module of a package that the extra `extra` installs.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module.partition(".")[0], extra) from error


def missing(package: str, extra: str) -> ConfigError:
    """Returns the error for a package that is not installed."""
    return ConfigError(
        f'the package {package} is not installed; install it with pip install "crnn_jax[{extra}]"'
    )
