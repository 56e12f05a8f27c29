"""Weights of other programs: a checkpoint of PyTorch becomes a model folder."""

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crnn_jax import __version__, files
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.data.images import Preprocessing
from crnn_jax.errors import CheckpointError, ConfigError
from crnn_jax.exporting.new_folder import new_folder
from crnn_jax.exporting.state_dicts import (
    NAMINGS,
    Arrays,
    Layer,
    arrays_of,
    expected_shapes,
    layers,
)
from crnn_jax.recognition.model_folder import write_model_folder
from crnn_jax.text.alphabet import Alphabet

MAX_BYTES = 2**32  # of a checkpoint
SHOWN = 5  # tensors that an error lists

# The published networks, and the images that they were trained on: height and width in pixels, and
# width 0 where the ratio was kept.
VARIANTS = {
    "crnn_pytorch": (32, 100),
    "dtrb": (32, 100),
    "easyocr": (64, 0),
    "nano_ocr": (32, 128),
    "paper": (32, 100),
}

# Parts of names of networks that are none of these.
OTHERS = {
    "Transformation.": "a spatial transformer (TPS) before the convolutions",
    "ConvNet.conv0_1": "the features of a ResNet, as the first generation of EasyOCR has",
    "attention_cell": "an attention decoder instead of CTC",
    "attn": "an attention decoder instead of CTC",
}


@dataclass(frozen=True)
class Imported:
    """Weights with the network that they belong to.

    Attributes:
      variant: a key of VARIANTS.
      architecture: that of the variant, with the channels and units of the weights.
      arrays: those of `Architecture.arrays`.
      num_classes: K.
      channels: of the images, 1 or 3.
    """

    variant: str
    architecture: Architecture
    arrays: Arrays
    num_classes: int
    channels: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the network for a manifest."""
        own, named = self.architecture, ARCHITECTURES[self.variant]
        settings: dict[str, Any] = {
            "batch_norm": own.batch_norm,
            "space_to_depth": own.space_to_depth,
            "leaky": own.leaky,
            "per_image": own.per_image,
        }
        if tuple(own.channels) != tuple(named.channels):
            settings["channels"] = list(own.channels)
        if own.hidden != named.hidden:
            settings["hidden"] = own.hidden
        return settings


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, without running any code that is in it.

    Args:
      path: a .safetensors file, or a file of `torch.save`: a state dict, or a dictionary that has
        one as `state_dict`, `model` or `model_state_dict`. `module.` before all names is left out.

    Raises:
      CheckpointError: it cannot be read, or holds more than tensors, numbers and texts.
      ConfigError: PyTorch is not installed.
    """
    try:
        with files.open_file(path, MAX_BYTES) as file:
            read = _safetensors if path.suffix == ".safetensors" else _torch
            state = read(path, file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def import_weights(
    state: Arrays,
    name: str,
    variant: str | None = None,
    blank_last: bool = False,
) -> Imported:
    """Finds the network of a state dict and converts its tensors.

    Args:
      state: tensors by their names.
      name: of the checkpoint, for messages.
      variant: a key of VARIANTS; None finds it from the names and shapes.
      blank_last: whether the blank of CTC is the last class and not the first. It becomes class 0.

    Raises:
      ConfigError: there is no such variant.
      CheckpointError: tensors are missing, left over, or of other shapes; they are named.
    """
    if variant is not None and variant not in VARIANTS:
        raise ConfigError(f"there is no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    for part, reason in OTHERS.items():
        if any(part in tensor for tensor in state):
            raise CheckpointError(
                f"{name} has {reason}, which crnn_jax does not have; import a CRNN with CTC:"
                f" {', '.join(VARIANTS)}"
            )
    candidates = [variant] if variant else list(VARIANTS)
    architectures = {one: _with_sizes(one, state) for one in candidates}
    problems = {one: _problems(architectures[one], one, state) for one in candidates}

    def misfit(one: str) -> tuple[int, bool]:
        return sum(map(len, problems[one].values())), architectures[one] != ARCHITECTURES[one]

    best = min(candidates, key=misfit)
    architecture = architectures[best]
    if told := _told(problems[best]):
        raise CheckpointError(f"{name} is no {best}: {told}")
    naming = NAMINGS[best]
    arrays = arrays_of(architecture, state, naming)
    if blank_last:
        for part in ("kernel", "bias"):
            path = f"params/head/{part}"
            arrays[path] = np.roll(arrays[path], 1, axis=-1)
    for path, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{name} has values that are not finite, in {path}")
    num_classes, channels = _ends(architecture, best, state)
    return Imported(best, architecture, arrays, num_classes, channels)


def write_imported(
    checkpoint: Path,
    alphabet_file: Path,
    folder: Path,
    variant: str | None = None,
    blank_last: bool = False,
    height: int | None = None,
    width: int | None = None,
) -> str:
    """Imports a checkpoint into a new model folder.

    Args:
      checkpoint: see `read_state_dict`.
      alphabet_file: the characters in the order of the classes.
      folder: is created.
      variant, blank_last: see `import_weights`.
      height, width: of the images, in pixels; None for those of the variant.

    Returns:
      A line that says what was imported.

    Raises:
      ConfigError, CheckpointError: something does not fit; nothing is written then.
    """
    alphabet = Alphabet.from_file(alphabet_file)
    with new_folder(folder) as place:
        state = read_state_dict(checkpoint)
        imported = import_weights(state, str(checkpoint), variant, blank_last)
        if imported.num_classes != alphabet.num_classes:
            raise ConfigError(
                f"{alphabet_file} has {len(alphabet.characters)} characters and {checkpoint} reads"
                f" {imported.num_classes - 1}; list all of them, in the order of the classes,"
                " without the blank"
            )
        size = VARIANTS[imported.variant]
        preprocessing = Preprocessing(
            height=size[0] if height is None else height,
            channels=imported.channels,
            width=size[1] if width is None else width,
        )
        if not imported.architecture.fits(preprocessing.height):
            rows = max(imported.architecture.rows(preprocessing.height), 0)
            raise ConfigError(
                f"--height {preprocessing.height} leaves {rows} rows of features instead of one;"
                f" {imported.variant} takes {size[0]}"
            )
        manifest = {
            "step": 0,
            "alphabet": alphabet.to_dict(),
            "model": {"name": imported.variant, "settings": imported.settings},
            "preprocessing": preprocessing.to_dict(),
            "versions": {"crnn_jax": __version__},
        }
        about = (
            f"Imported from a PyTorch checkpoint, `{checkpoint.name}`, as the variant"
            f" `{imported.variant}`. Say here where the weights come from."
        )
        write_model_folder(place, manifest, imported.arrays, about)
    params = sum(a.size for path, a in imported.arrays.items() if path.startswith("params/"))
    return (
        f"{folder}: {imported.variant}, {params:,} parameters, {len(alphabet.characters)}"
        f" characters, images {preprocessing.height} pixels high"
    )


def _safetensors(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(file.read()))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or is damaged: {error}") from error


def _torch(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"{path.name} is read with PyTorch, which is not installed; pip install"
            ' "crnn_jax[torch]", or convert it to safetensors'
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which are read all the same
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"{path} holds more than tensors, so that reading it could run code; save"
            f" model.state_dict() alone ({reason[:200]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read: {reason[:200]}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} has no state dict; save model.state_dict()")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    return {
        k: v.float().numpy() if v.is_floating_point() else v.numpy() for k, v in tensors.items()
    }


def _with_sizes(variant: str, state: Arrays) -> Architecture:
    """The architecture with as many channels and units as the weights have."""
    named = ARCHITECTURES[variant]
    found = list(layers(named, NAMINGS[variant]))
    convs = [state.get(f"{layer.theirs}.weight") for layer in found if layer.kind == "conv"]
    recurrent = [state.get(_recurrent(layer)) for layer in found if layer.kind == "lstm"]
    if any(kernel is None or kernel.ndim != 4 for kernel in convs):
        return named
    if recurrent[0] is None or recurrent[0].ndim != 2:
        return named
    channels = tuple(len(kernel) for kernel in convs if kernel is not None)
    return replace(named, channels=channels, hidden=recurrent[0].shape[1])


def _recurrent(layer: Layer) -> str:
    return f"{layer.theirs}.weight_hh_l{layer.number}"


def _ends(architecture: Architecture, variant: str, state: Arrays) -> tuple[int, int]:
    """K, and the channels of the images; 1 and 1 where the weights do not say."""
    found = list(layers(architecture, NAMINGS[variant]))
    head, first = (state.get(f"{found[place].theirs}.weight") for place in (-1, 0))
    classes = 1 if head is None or head.ndim != 2 else len(head)
    return classes, 1 if first is None or first.ndim != 4 else first.shape[1]


def _problems(architecture: Architecture, variant: str, state: Arrays) -> dict[str, list[str]]:
    """The names of tensors that are missing, left over, or of another shape."""
    classes, channels = _ends(architecture, variant, state)
    shapes = expected_shapes(architecture, classes, channels, NAMINGS[variant])
    counters = {name for name in shapes if name.endswith("num_batches_tracked")}
    return {
        "missing": [name for name in shapes if name not in state and name not in counters],
        "left over": [name for name in state if name not in shapes],
        "of another shape": [
            f"{name} {state[name].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in state and state[name].shape != shape and math.prod(shape) > 0
        ],
    }


def _told(problems: Mapping[str, Sequence[str]]) -> str:
    """The problems in words; empty if there are none."""
    told: list[str] = []
    for kind, names in problems.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        if names:
            told.append(f"{kind}: {', '.join(names[:SHOWN])}{more}")
    return "; ".join(told)
