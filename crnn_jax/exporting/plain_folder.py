"""Folders with arrays and a plain network in Python: what is in them, and reading with them."""

import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from PIL import Image

from crnn_jax.decoding.options import make_decoder
from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.contents import DESCRIPTION, PROGRAM
from crnn_jax.exporting.plain_layers import PlainLayer, description
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.jax_backend import decode
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet

NETWORK, READ = "network.py", "read_images.py"
STEPS = 64  # logits are padded to a multiple of it, as each length is compiled


def write_programs(
    model: TrainedModel, folder: Path, network: str, layers: list[PlainLayer]
) -> None:
    """Writes model.json, network.py and the program that reads images with it.

    Args:
      model: the model.
      folder: where to.
      network: the name of a file in `programs/`, which becomes network.py.
      layers: what it makes of model.json.
    """
    text = json.dumps(description(model, layers), ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    (folder / NETWORK).write_bytes(_source(network))
    (folder / PROGRAM).write_bytes(_source(READ))


def plain_reader(folder: Path, network: str) -> Reader:
    """Reads with the programs of a folder: with their logits, and the path that they take.

    The code that runs is this package's own, never that in the folder, which may come from anyone.
    Probabilities and confidence, which the programs do not compute, are those of their logits.
    """
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    own_network = _run(network, folder / NETWORK, {})
    program = _run(READ, folder / PROGRAM, {"network": own_network})
    decoder = make_decoder(Alphabet(described["characters"]), described["charsets"])
    calibration = Calibration.from_dict(described["calibration"])

    def read(images: np.ndarray) -> Outputs:
        logits = np.stack([own_network.logits(program.pixels(_image(one))) for one in images])
        batch, steps, _ = logits.shape
        lengths = np.full(batch, steps, np.int32)
        padded = np.pad(logits, ((0, 0), (0, -steps % STEPS), (0, 0)))
        decoding = decode(decoder, jnp.asarray(padded), jnp.asarray(lengths))
        probabilities = np.asarray(decoding.step_probabilities)[:, :steps]
        share = np.exp(np.asarray(decoding.log_share, float))
        return Outputs(
            classes=np.array([program.best_path(one) for one in logits], np.int32),
            lengths=lengths,
            log_probabilities=np.log(probabilities),
            confidence=calibration.confidence(share).astype(np.float32),
            logits=logits,
        )

    return read


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
