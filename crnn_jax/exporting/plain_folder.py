"""Folders with arrays and a plain network in Python: what is in them, and reading with them."""

import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.contents import DESCRIPTION, PROGRAM
from crnn_jax.exporting.plain_layers import PlainLayer, description
from crnn_jax.recognition.trained_model import TrainedModel

NETWORK = "network.py"

# The files of a folder, and their sources in `programs/`. Each may import those before it.
SHARED = {"confidence.py": "confidence.py"}
NUMPY = {**SHARED, "layers.py": "numpy_layers.py", NETWORK: "numpy_network.py"}
TORCH = {**SHARED, NETWORK: "torch_network.py"}
READ = {PROGRAM: "read_images.py"}


def write_programs(
    model: TrainedModel, folder: Path, programs: Mapping[str, str], layers: list[PlainLayer]
) -> None:
    """Writes model.json, and the program that reads images with what it imports.

    Args:
      model: the model.
      folder: where to.
      programs: NUMPY or TORCH.
      layers: what network.py makes of model.json.
    """
    text = json.dumps(description(model, layers), ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    for name, source in {**programs, **READ}.items():
        (folder / name).write_bytes(_source(source))


def plain_reader(folder: Path, programs: Mapping[str, str]) -> Reader:
    """Reads with the program of a folder, which `write_programs` wrote.

    The code that runs is this package's own, never that in the folder, which may come from anyone.
    """
    own: dict[str, ModuleType] = {}
    for name, source in {**programs, **READ}.items():
        place = folder / name
        own[place.stem] = _run(source, place, own)
    network, program = own["network"], own[Path(PROGRAM).stem]

    def read(images: np.ndarray) -> Outputs:
        logits = np.stack([network.logits(program.pixels(_image(one))) for one in images])
        found = [program.best_path(one) for one in logits]
        paths = np.array([path for path, _ in found], np.int32)
        texts = [[k for k, _ in groupby(path.tolist()) if k] for path in paths]
        confidences = [
            program.confidence(one, text, network.MODEL)
            for one, text in zip(logits, texts, strict=True)
        ]
        return Outputs(
            classes=paths,
            lengths=np.full(len(paths), paths.shape[1], np.int32),
            log_probabilities=np.stack(
                [_steps(one, *reading) for one, reading in zip(logits, found, strict=True)]
            ),
            confidence=np.array(confidences, np.float32),
            logits=logits,
        )

    return read


def _steps(logits: np.ndarray, path: list[int], classes: list[int]) -> np.ndarray:
    """The log probabilities (T,) of a path among these classes, for logits (T, K)."""
    sums = np.logaddexp.reduce(logits[:, classes], axis=1)
    return logits[range(len(path)), path] - sums


def _image(pixels: np.ndarray) -> Image.Image:
    """An image (H, W, 1 or 3) uint8 as Pillow opens it."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _source(name: str) -> bytes:
    return (files("crnn_jax.exporting") / "programs" / name).read_bytes()


def _run(source: str, place: Path, modules: Mapping[str, ModuleType]) -> ModuleType:
    """A file of `programs/` as a module that lies at that place and finds these modules there."""
    module = ModuleType(place.stem)
    module.__file__ = str(place)
    hidden = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        exec(compile(_source(source), source, "exec"), vars(module))  # noqa: S102  # our own file
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(hidden)
    return module
