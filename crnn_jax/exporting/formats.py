"""The forms of a model by name. What a form needs is imported when it is asked for."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

from crnn_jax.errors import ConfigError
from crnn_jax.exporting import Format


@dataclass(frozen=True)
class Entry:
    """Where a format is.

    Attributes:
      place: the module in `exporting/` and the class.
      packages: what it needs besides what this package needs.
      extra: the extra that installs them.
    """

    place: str
    packages: tuple[str, ...] = ()
    extra: str = ""


_ONNX = ("onnx", "onnxruntime"), "onnx"

FORMATS = {
    "onnx": Entry("onnx_format.OnnxFormat", *_ONNX),
    "onnx-int8": Entry("int8.Int8Format", *_ONNX),
    "stablehlo": Entry("stablehlo.StableHloFormat", ("flatbuffers",), "stablehlo"),
    "safetensors": Entry("safetensors_format.SafetensorsFormat"),
    "torch": Entry("torch_format.TorchFormat", ("torch",), "torch"),
    "web": Entry("web.WebFormat", *_ONNX),
}


def load_format(name: str) -> Format:
    """Returns a format whose runtime is installed.

    Raises:
      ConfigError: there is no such format, or its runtime is not installed.
    """
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}; choose from {', '.join(FORMATS)}")
    entry = FORMATS[name]
    if missing := [package for package in entry.packages if find_spec(package) is None]:
        raise ConfigError(
            f"the format {name} needs {' and '.join(missing)}, to write the model and to test it:"
            f" pip install 'crnn_jax[{entry.extra}]'"
        )
    module, form = entry.place.split(".")
    return getattr(importlib.import_module(f"crnn_jax.exporting.{module}"), form)()
