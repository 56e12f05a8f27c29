"""Models as folders to share: safetensors with a description, and a network in NumPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crnn_jax import __version__
from crnn_jax.exporting import Reader
from crnn_jax.exporting.plain_folder import NUMPY, plain_reader, write_programs
from crnn_jax.exporting.plain_layers import numpy_layers
from crnn_jax.recognition.model_folder import write_model_folder
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.trees import flatten

ABOUT = """\
Exported by crnn_jax from step {step} of {name}. Say here what it was trained on.

Without crnn_jax, `network.py` computes the logits in NumPy and `read.py` reads images with it:

```
pip install safetensors numpy pillow
python read.py image.png
```
"""


class SafetensorsFormat:
    """A model folder, which `Recognizer.load` reads, too; see `exporting.Format`."""

    name = "safetensors"
    tolerance: float | None = 1e-4

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`."""
        del images
        settings = {**model.description["settings"], "shortcut": False}
        manifest: dict[str, Any] = {
            "step": model.step,
            "alphabet": model.alphabet.to_dict(),
            "model": {**model.description, "settings": settings},
            "preprocessing": model.preprocessing.to_dict(),
            "versions": {"crnn_jax": __version__},
            "charsets": dict(model.charsets),
            "calibration": model.calibration.to_dict(),
        }
        about = ABOUT.format(name=Path(model.name).name, step=model.step).rstrip()
        write_model_folder(folder, manifest, arrays_for_reading(model), about)
        write_programs(model, folder, NUMPY, numpy_layers(model.architecture))

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        return plain_reader(folder, NUMPY)


def arrays_for_reading(model: TrainedModel) -> dict[str, np.ndarray]:
    """The arrays of `Architecture.arrays`: without what serves training alone."""
    classes, channels = model.alphabet.num_classes, model.preprocessing.channels
    arrays = flatten(model.variables)
    return {
        path: np.asarray(arrays[path], np.float32)
        for path in model.architecture.arrays(classes, channels)
    }
