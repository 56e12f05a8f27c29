"""Models in ONNX whose convolutions compute with 8-bit integers.

The rest stays in single precision: resizing and normalizing, which choose what the network sees;
the LSTMs, for which ONNX has no such operator; and the last layer and decoding, which take little
time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crnn_jax.errors import ConfigError
from crnn_jax.exporting.onnx_format import MODEL, OnnxFormat
from crnn_jax.recognition.trained_model import TrainedModel

if TYPE_CHECKING:
    import onnx

QUANTIZED = ["Conv", "Relu", "LeakyRelu", "MaxPool"]
"""Operators of the convolution stack, which alone has them; between them nothing is converted."""

MAX_IMAGES = 256  # as many as are enough to find the ranges of the features


class Int8Format(OnnxFormat):
    """The convolutions in 8-bit integers; see `exporting.Format`.

    Weights are rounded for each channel, activations by the ranges that they have on the images.
    """

    name = "onnx-int8"
    tolerance: float | None = None
    remark = " The convolutions compute with 8-bit integers."

    def graph(self, model: TrainedModel, images: Sequence[np.ndarray]) -> "onnx.ModelProto":
        """Returns the graph of a model.

        Raises:
          ConfigError: there are no images.
        """
        import onnx
        from onnxruntime import quantization

        if not images:
            raise ConfigError(
                f"the format {self.name} needs images, to find out how large the features get;"
                " name a folder of images like those that will be read"
            )

        class Reader(quantization.CalibrationDataReader):
            """The images one by one, as they have different sizes."""

            def __init__(self) -> None:
                self.images: Iterator[np.ndarray] = iter(images[:MAX_IMAGES])

            def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
                image = next(self.images, None)
                return None if image is None else {"images": image[None]}

        graph = super().graph(model, images)
        # Batch normalization is folded already; without this mark it is asked for.
        graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MODEL
            quantization.quantize_static(
                graph,
                path,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            quantized = onnx.load(path)
        _sort(quantized.graph)
        return quantized


def _sort(graph: "onnx.GraphProto") -> None:
    """Puts nodes behind those that they need.

    The quantization sorts them, but overlooks what the bodies of `Scan` and `If` take from the
    graph around them.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    needs = {
        place: {makers[name] for name in _inputs(node) if name in makers}
        for place, node in enumerate(graph.node)
    }
    nodes = [graph.node[place] for place in TopologicalSorter(needs).static_order()]
    del graph.node[:]
    graph.node.extend(nodes)


def _inputs(node: "onnx.NodeProto") -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)
