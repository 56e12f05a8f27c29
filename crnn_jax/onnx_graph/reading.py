"""The whole graph: from images to what is read in them, and how sure it is."""

from dataclasses import dataclass

import numpy as np
import onnx

from crnn_jax.architecture import Architecture
from crnn_jax.onnx_graph.decoding import Charsets, confidence, decoded
from crnn_jax.onnx_graph.network import Arrays, network
from crnn_jax.onnx_graph.nodes import Graph, tensor
from crnn_jax.onnx_graph.resize import ImageForm, prepared, resized


@dataclass(frozen=True)
class Odds:
    """The confidence of a text: log odds = intercept + slope * log odds of its probability."""

    intercept: float = 0.0
    slope: float = 1.0


def reading_graph(
    architecture: Architecture,
    arrays: Arrays,
    form: ImageForm,
    charsets: Charsets | None = None,
    odds: Odds = Odds(),
    resize: bool = True,
) -> onnx.ModelProto:
    """Returns the graph of a model.

    Its outputs are `classes` (B, T) int32, `lengths` (B,) int32, `log_probabilities` (B, T),
    `confidence` (B,) and `logits` (B, T, K), see `exporting.Outputs`. Logits after the valid time
    steps have no meaning.

    Args:
      architecture: the layers.
      arrays: those that `Architecture.arrays` lists.
      form: the images that the network takes.
      charsets: the likely sets of characters of a text; None to read all characters.
      odds: the calibration of the confidence.
      resize: if true, the input is `images` (B, H, W, C) uint8 of any size, with 3 channels (RGB)
        or 1 (gray). If false, the inputs are `images` (B, height, W, channels) uint8, resized and
        padded on the right, and their `widths` (B,) int32.
    """
    graph = Graph()
    if resize:
        inputs = [tensor("images", np.uint8, ("B", "H", "W", "C"))]
        images, widths = resized(graph, form, "images"), None
    else:
        inputs = [
            tensor("images", np.uint8, ("B", form.height, "W", form.channels)),
            tensor("widths", np.int32, ("B",)),
        ]
        images, widths = prepared(graph, "images"), graph.cast("widths", np.int64)
    logits, lengths = network(graph, architecture, arrays, images, widths)
    reading = decoded(graph, logits, lengths, charsets)
    sure = confidence(graph, reading.log_share, odds.intercept, odds.slope)
    classes = len(arrays["params/head/bias"])
    outputs = [
        (graph.cast(reading.path, np.int32), tensor("classes", np.int32, ("B", "T"))),
        (graph.cast(lengths, np.int32), tensor("lengths", np.int32, ("B",))),
        (reading.log_probabilities, tensor("log_probabilities", np.float32, ("B", "T"))),
        (sure, tensor("confidence", np.float32, ("B",))),
        (logits, tensor("logits", np.float32, ("B", "T", classes))),
    ]
    for name, output in outputs:
        graph("Identity", name, name=output.name)
    return graph.model(inputs, [output for _, output in outputs], "crnn")
