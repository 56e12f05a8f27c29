"""The layers of a network as lists in JSON types, for programs that read without this package."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from crnn_jax.architecture import Architecture, dense_name
from crnn_jax.exporting.contents import describe
from crnn_jax.exporting.state_dicts import Naming, layers
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import BLANK
from crnn_jax.text.constraints import SIZE_WEIGHT, classes_of

LEAK = 0.2  # the slope of LeakyReLU, as in `models.conv_stack`

WAYS = ("forward", "backward")

PlainLayer: TypeAlias = list[Any]
"""A layer: what it is, its arrays or name, and its sizes, in the order its program expects."""


def description(model: TrainedModel, plain: list[PlainLayer]) -> dict[str, Any]:
    """What `programs/read_images.py` and the network beside it read."""
    preprocessing = model.preprocessing
    return {
        **describe(model),
        "height": preprocessing.height,
        "width": preprocessing.width,
        "max_width": preprocessing.max_width,
        "mode": "L" if preprocessing.channels == 1 else "RGB",
        "invert": preprocessing.invert,
        "sets": _sets(model),
        "calibration": {
            "intercept": model.calibration.intercept,
            "slope": model.calibration.slope,
        },
        "layers": plain,
    }


def _sets(model: TrainedModel) -> list[list[Any]]:
    """The sets of characters that texts are of: classes, how likely, and a weight per character.

    See `decoding.CharsetPath`.
    """
    classes = model.alphabet.num_classes
    if not model.charsets:
        return [[list(range(classes)), 0.0, 0.0]]
    sets: list[list[Any]] = []
    for name, prior in model.charsets.items():
        allowed = np.flatnonzero(classes_of(name, model.alphabet)).tolist()
        weight = SIZE_WEIGHT * (math.log(classes - 1) - math.log(len(allowed)))
        sets.append([[BLANK, *allowed], prior, weight])
    return sets


def numpy_layers(architecture: Architecture) -> list[PlainLayer]:
    """Kinds, paths of arrays and sizes of the layers, for `programs/numpy_network.py`."""
    found: list[PlainLayer] = []
    if architecture.per_image:
        found.append(["normalize", [], None])
    if architecture.block > 1:
        found.append(["blocks", [], architecture.block])
    convs = zip(architecture.convs, architecture.pools, strict=True)
    for number, (conv, pool) in enumerate(convs, start=1):
        parts = ("kernel", "bias") if conv.bias else ("kernel",)
        paths = [f"params/conv_stack/conv{number}/{part}" for part in parts]
        found.append(["convolution", paths, conv.padding])
        if number in architecture.normalized:
            norm = f"conv_stack/norm{number}"
            paths = [f"batch_stats/{norm}/{part}" for part in ("mean", "var")]
            paths += [f"params/{norm}/{part}" for part in ("scale", "bias")]
            found.append(["batch norm", paths, None])
        found.append(["relu", [], LEAK if architecture.leaky else 0])
        if pool:
            found.append(["max pool", [], [list(sizes) for sizes in pool]])
    found.append(["time steps", [], None])
    for number, dense in enumerate(architecture.dense_after, start=1):
        parts = ("_input/kernel", "_input/bias", "/recurrent/kernel")
        paths = [f"params/bilstm{number}/{way}{part}" for way in WAYS for part in parts]
        found.append(["lstm", paths, None])
        if dense:
            found.append(_dense(dense_name(number)))
    return [*found, _dense("head")]


def _dense(name: str) -> PlainLayer:
    return ["dense", [f"params/{name}/kernel", f"params/{name}/bias"], None]


def torch_layers(
    architecture: Architecture, num_classes: int, channels: int, naming: Naming
) -> list[PlainLayer]:
    """Names, classes of torch.nn and their arguments, for `programs/torch_network.py`."""
    shapes = architecture.arrays(num_classes, channels)
    found: list[PlainLayer] = []
    if architecture.per_image:  # one group: zero mean and unit variance
        group = {"num_groups": 1, "num_channels": channels, "eps": 1e-4, "affine": False}
        found.append(["normalize", "GroupNorm", group])
    if architecture.block > 1:
        found.append(["blocks", "PixelUnshuffle", {"downscale_factor": architecture.block}])
    number = 0
    for layer in layers(architecture, naming):
        shape = shapes.get(f"params/{layer.ours}/kernel", ())
        if layer.kind == "conv":
            number += 1
            conv = architecture.convs[number - 1]
            sizes = {"in_channels": shape[2], "out_channels": shape[3], "kernel_size": conv.kernel}
            sizes |= {"padding": conv.padding, "bias": conv.bias}
            found.append([layer.theirs, "Conv2d", sizes])
            if number not in architecture.normalized:
                found.extend(_after_conv(architecture, number))
        elif layer.kind == "norm":
            features = architecture.channels[number - 1]
            found.append([layer.theirs, "BatchNorm2d", {"num_features": features}])
            found.extend(_after_conv(architecture, number))
        elif layer.kind == "dense":
            sizes = {"in_features": shape[0], "out_features": shape[1]}
            found.append([layer.theirs, "Linear", sizes])
        elif layer.number:  # a further layer of the LSTM before
            found[-1][2]["num_layers"] = layer.number + 1
        else:
            inputs, gates = shapes[f"params/{layer.ours}/forward_input/kernel"]
            sizes = {"input_size": inputs, "hidden_size": gates // 4}
            sizes |= {"bidirectional": True, "batch_first": True}
            found.append([layer.theirs, "LSTM", sizes])
    return found


def _after_conv(architecture: Architecture, number: int) -> Iterator[PlainLayer]:
    if architecture.leaky:
        yield [f"relu{number}", "LeakyReLU", {"negative_slope": LEAK}]
    else:
        yield [f"relu{number}", "ReLU", {}]
    if pool := architecture.pools[number - 1]:
        sizes = {"kernel_size": list(pool.window), "stride": list(pool.stride)}
        yield [f"pool{number}", "MaxPool2d", {**sizes, "padding": list(pool.padding)}]
