"""Recipes: the configs that come with the package, by name, and configs in files.

JAX is not imported here, so that a command can show its help at once.
"""

import difflib
import importlib.util
import inspect
import re
import traceback
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from crnn_jax.errors import ConfigError, CrnnError

# A ConfigDict, whose fields have types that no checker can see.
Config: TypeAlias = Any

DEFAULT = "captcha"  # has every setting that a config can have

# Old names of settings. A new name that begins with -- is a flag of the command.
RENAMED = {
    "eval.step": "--step",
    "init_parts": "init_scope",
    "optimizer.average": "optimizer.ema_decay",
}

_PACKAGE = Path(__file__).resolve().parent
# The wheel has the recipes in the package; a clone has them beside it.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def get_config(name: str) -> Config:
    """Returns the config of a recipe: an `ml_collections.ConfigDict` that may be changed.

    Args:
      name: a recipe, such as `captcha`, or a Python file with a function `get_config`, such as
        `configs/captcha.py`. A variant follows after a colon: `captcha:quick`.

    Raises:
      ConfigError: there is no such recipe, file or variant, or its code fails.
    """
    path, variant = _find(name)
    try:
        function = _load(path).get_config
        if variant and not inspect.signature(function).parameters:
            raise ValueError("it has no variants")
        config = function(*variant)
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config returns a {type(config).__name__}, not a ConfigDict")
        return config
    except CrnnError:
        raise
    except (Exception, SystemExit) as error:  # the file may do anything
        raise ConfigError(f"config {name}: {_reason(error, path)}") from error


def recipes() -> dict[str, str]:
    """Returns one line of description for each recipe and variant, such as `captcha:quick`."""
    described: dict[str, str] = {}
    for name, path in _recipe_files().items():
        module = _load(path)
        described[name] = (module.__doc__ or "").partition("\n")[0]
        for variant, description in getattr(module, "VARIANTS", {}).items():
            if variant != "default":
                described[f"{name}:{variant}"] = description
    return described


def settings_of(config: Config) -> dict[str, Any]:
    """Returns the settings of a config by their full names, such as `data.dir`.

    Groups of settings, such as `data`, are among them.
    """
    names: dict[str, Any] = {}
    for name, value in config.items():
        names[name] = value
        if isinstance(value, ConfigDict):
            names |= {f"{name}.{inner}": of for inner, of in settings_of(value).items()}
    return names


def no_such_setting(name: str, known: Collection[str]) -> str:
    """Says that `name` is no setting, and which of those `known` may be meant."""
    if new := RENAMED.get(name):
        return f"config.{name} has another name now: {'' if new[0] == '-' else 'config.'}{new}"
    similar = difflib.get_close_matches(name, known, 1)
    meant = f", did you mean config.{similar[0]}?" if similar else ""
    return f"there is no config.{name}{meant}"


def _find(name: str) -> tuple[Path, tuple[str, ...]]:
    """The file of a config, and its variant if one is named."""
    if found := re.fullmatch(r"(.*\.py)(?::(.*))?", name, re.DOTALL):
        path, variant = Path(found[1]), found[2]
        try:
            exists = path.is_file()
        except OSError as error:  # before Python 3.14
            raise ConfigError(f"cannot read the config {path} ({error.strerror})") from error
        if not exists:
            known = path.stem in _recipe_files()
            remedy = f"the recipe is called {path.stem}" if known else "check the path"
            raise ConfigError(f"there is no file {path}; {remedy}")
    else:
        recipe, _, variant = name.partition(":")
        files = _recipe_files()
        if recipe not in files:
            raise ConfigError(
                f"there is no recipe {recipe!r}; choose from {', '.join(files)}, or name a file,"
                " such as my_config.py"
            )
        path = files[recipe]
    return path, (variant,) if variant else ()


def _recipe_files() -> dict[str, Path]:
    folder = next(folder for folder in _FOLDERS if (folder / f"{DEFAULT}.py").is_file())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def _load(path: Path) -> ModuleType:
    """Runs a Python file as a module of its own, which no other import finds."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec and spec.loader, path  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reason(error: BaseException, path: Path) -> str:
    """What went wrong in a config file, on one line; a ValueError says it by itself."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path
    ]
    where = f", line {lines[-1]} of {path}" if lines else ""
    return f"{type(error).__name__}: {text}{where}"
