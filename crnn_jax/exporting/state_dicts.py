"""Arrays of a model and state dicts of PyTorch: names, axes and gates, in both directions.

The names are those of the repositories that published the networks. Both follow from the
`Architecture`, so each variant is read and written by the same lines.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from crnn_jax.architecture import Architecture, dense_name

Arrays: TypeAlias = Mapping[str, np.ndarray]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Naming: TypeAlias = Literal["plain", "crnn_pytorch", "dtrb"]

# How the layers of each variant are called.
NAMINGS: dict[str, Naming] = {
    "crnn": "crnn_pytorch",
    "crnn_half": "crnn_pytorch",
    "crnn_small": "crnn_pytorch",
    "crnn_pytorch": "crnn_pytorch",
    "dtrb": "dtrb",
    "easyocr": "dtrb",
    "nano_ocr": "plain",
    "paper": "plain",
}


class Layer(NamedTuple):
    """A layer by both its names; of an LSTM `theirs` is followed by _l0 or _l1."""

    kind: Literal["conv", "norm", "lstm", "dense"]
    ours: str
    theirs: str
    number: int = 0


def layers(architecture: Architecture, naming: Naming) -> Iterator[Layer]:
    """The layers of a network, with their names."""
    place = 0  # in an nn.Sequential of convolutions, normalizations, activations and pools
    stack = {"plain": "cnn", "crnn_pytorch": "cnn", "dtrb": "FeatureExtraction.ConvNet"}[naming]
    for number, pool in enumerate(architecture.pools, start=1):
        named = naming == "crnn_pytorch"
        normalized = number in architecture.normalized
        conv = f"conv{number - 1}" if named else f"{place}"
        yield Layer("conv", f"conv_stack/conv{number}", f"{stack}.{conv}")
        if normalized:
            norm = f"batchnorm{number - 1}" if named else f"{place + 1}"
            yield Layer("norm", f"conv_stack/norm{number}", f"{stack}.{norm}")
        place += 2 + normalized + (pool is not None)
    last = len(architecture.dense_after)
    for number, dense in enumerate(architecture.dense_after, start=1):
        before = {
            "plain": "rnn",
            "crnn_pytorch": f"rnn.{number - 1}.rnn",
            "dtrb": f"SequenceModeling.{number - 1}.rnn",
        }[naming]
        yield Layer("lstm", f"bilstm{number}", before, number - 1 if naming == "plain" else 0)
        if dense:
            after = {
                "plain": f"fc{number}",
                "crnn_pytorch": f"rnn.{number - 1}.embedding",
                "dtrb": f"SequenceModeling.{number - 1}.linear",
            }[naming]
            yield Layer("dense", dense_name(number), after)
    head = {"plain": "fc", "crnn_pytorch": f"rnn.{last - 1}.embedding", "dtrb": "Prediction"}
    yield Layer("dense", "head", head[naming])


def state_dict(architecture: Architecture, arrays: Arrays, naming: Naming) -> dict[str, np.ndarray]:
    """Returns the state dict of a model, whose arrays are those of `Architecture.arrays`.

    Space to depth becomes `torch.nn.functional.pixel_unshuffle`, which orders channels otherwise.
    """
    found: dict[str, np.ndarray] = {}
    for layer in layers(architecture, naming):
        ours, theirs = f"params/{layer.ours}", layer.theirs
        if layer.kind == "conv":
            kernel = arrays[f"{ours}/kernel"]
            if layer.ours == "conv_stack/conv1":
                kernel = _channels_first(kernel, architecture.block)
            found[f"{theirs}.weight"] = kernel.transpose(3, 2, 0, 1)
            if f"{ours}/bias" in arrays:
                found[f"{theirs}.bias"] = arrays[f"{ours}/bias"]
        elif layer.kind == "norm":
            found[f"{theirs}.weight"] = arrays[f"{ours}/scale"]
            found[f"{theirs}.bias"] = arrays[f"{ours}/bias"]
            found[f"{theirs}.running_mean"] = arrays[f"batch_stats/{layer.ours}/mean"]
            found[f"{theirs}.running_var"] = arrays[f"batch_stats/{layer.ours}/var"]
            found[f"{theirs}.num_batches_tracked"] = np.array(0, np.int64)
        elif layer.kind == "dense":
            found[f"{theirs}.weight"] = arrays[f"{ours}/kernel"].T
            found[f"{theirs}.bias"] = arrays[f"{ours}/bias"]
        else:
            for direction, end in _ends(layer):
                bias = arrays[f"{ours}/{direction}_input/bias"]
                found[f"{theirs}.weight_ih_{end}"] = arrays[f"{ours}/{direction}_input/kernel"].T
                found[f"{theirs}.weight_hh_{end}"] = arrays[
                    f"{ours}/{direction}/recurrent/kernel"
                ].T
                found[f"{theirs}.bias_ih_{end}"] = bias
                found[f"{theirs}.bias_hh_{end}"] = np.zeros_like(bias)  # PyTorch has two
    return {name: np.asarray(array, order="C") for name, array in found.items()}


def arrays_of(architecture: Architecture, state: Arrays, naming: Naming) -> dict[str, np.ndarray]:
    """Returns the arrays of a state dict that has all names and shapes of `expected_shapes`."""
    found: dict[str, np.ndarray] = {}
    for layer in layers(architecture, naming):
        ours, theirs = f"params/{layer.ours}", layer.theirs
        if layer.kind == "conv":
            kernel = state[f"{theirs}.weight"].transpose(2, 3, 1, 0)
            if layer.ours == "conv_stack/conv1":
                kernel = _channels_last(kernel, architecture.block)
            found[f"{ours}/kernel"] = kernel
            if f"{theirs}.bias" in state:
                found[f"{ours}/bias"] = state[f"{theirs}.bias"]
        elif layer.kind == "norm":
            found[f"{ours}/scale"] = state[f"{theirs}.weight"]
            found[f"{ours}/bias"] = state[f"{theirs}.bias"]
            found[f"batch_stats/{layer.ours}/mean"] = state[f"{theirs}.running_mean"]
            found[f"batch_stats/{layer.ours}/var"] = state[f"{theirs}.running_var"]
        elif layer.kind == "dense":
            found[f"{ours}/kernel"] = state[f"{theirs}.weight"].T
            found[f"{ours}/bias"] = state[f"{theirs}.bias"]
        else:
            for direction, end in _ends(layer):
                found[f"{ours}/{direction}_input/kernel"] = state[f"{theirs}.weight_ih_{end}"].T
                found[f"{ours}/{direction}_input/bias"] = (
                    state[f"{theirs}.bias_ih_{end}"] + state[f"{theirs}.bias_hh_{end}"]
                )
                found[f"{ours}/{direction}/recurrent/kernel"] = state[f"{theirs}.weight_hh_{end}"].T
    return {path: np.ascontiguousarray(array, np.float32) for path, array in found.items()}


def expected_shapes(
    architecture: Architecture, num_classes: int, channels: int, naming: Naming
) -> dict[str, tuple[int, ...]]:
    """Returns the names of a state dict and the shapes of its tensors.

    Args:
      architecture: the layers.
      num_classes: K, the characters and the blank.
      channels: of the images, 1 or 3.
      naming: the names of the layers.
    """
    shapes = architecture.arrays(num_classes, channels)
    arrays = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    state = state_dict(architecture, arrays, naming)
    return {name: tensor.shape for name, tensor in state.items()}


def _ends(layer: Layer) -> Iterator[tuple[str, str]]:
    """The directions of an LSTM, and how the names of their parameters end."""
    yield "forward", f"l{layer.number}"
    yield "backward", f"l{layer.number}_reverse"


def _channels_first(kernel: np.ndarray, block: int) -> np.ndarray:
    """The first kernel (h, w, n * n * C, D) with inputs in the order of C * n * n."""
    height, width, inputs, outputs = kernel.shape
    parted = kernel.reshape(height, width, block**2, inputs // block**2, outputs)
    return parted.swapaxes(2, 3).reshape(kernel.shape)


def _channels_last(kernel: np.ndarray, block: int) -> np.ndarray:
    """The inverse of `_channels_first`."""
    height, width, inputs, outputs = kernel.shape
    parted = kernel.reshape(height, width, inputs // block**2, block**2, outputs)
    return parted.swapaxes(2, 3).reshape(kernel.shape)
