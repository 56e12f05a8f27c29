"""A CRNN + CTC text recognizer in JAX and Flax.

    config = crnn_jax.get_config("captcha:quick")
    crnn_jax.train_and_evaluate(config, "runs/captcha")
    crnn_jax.evaluate("runs/captcha")
    recognizer = crnn_jax.Recognizer.load("runs/captcha")

Each name is imported when it is first used, so that `import crnn_jax` takes no time and does not
import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from crnn_jax.errors import (
    CheckpointError,
    ConfigError,
    CrnnError,
    DamagedCheckpoint,
    DataError,
    ExportFailed,
    TrainingDiverged,
)

if TYPE_CHECKING:
    from crnn_jax.recipes import get_config
    from crnn_jax.recognition.recognizer import Recognizer
    from crnn_jax.recognition.results import Recognition
    from crnn_jax.scoring import evaluate
    from crnn_jax.train import train_and_evaluate

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CrnnError",
    "DamagedCheckpoint",
    "DataError",
    "ExportFailed",
    "Recognition",
    "Recognizer",
    "TrainingDiverged",
    "__version__",
    "evaluate",
    "get_config",
    "train_and_evaluate",
]

_MODULES = {
    "Recognition": "crnn_jax.recognition.results",
    "Recognizer": "crnn_jax.recognition.recognizer",
    "evaluate": "crnn_jax.scoring",
    "get_config": "crnn_jax.recipes",
    "train_and_evaluate": "crnn_jax.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
