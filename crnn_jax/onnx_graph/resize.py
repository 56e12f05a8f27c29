"""Images of any size become images as the network takes them, as ONNX nodes.

The result is that of `data.images.resize`, which uses Pillow.
"""

from dataclasses import dataclass

import numpy as np

from crnn_jax.onnx_graph.nodes import Graph

GRAY = np.array([[19595], [38470], [7471]], np.float32)
"""The weights of red, green and blue in Pillow's gray, in units of 1/65536."""


@dataclass(frozen=True)
class ImageForm:
    """The images that a network takes.

    Attributes:
      height: pixels.
      channels: 1 (gray) or 3 (RGB).
      width: pixels that all images are resized to; 0 keeps the aspect ratio of each image.
      min_width, max_width: pixels, the limits of other widths.
      invert: whether dark becomes light.
    """

    height: int
    channels: int
    width: int
    min_width: int
    max_width: int
    invert: bool


def resized(graph: Graph, form: ImageForm, images: str) -> str:
    """Adds the resizing of images (B, H, W, C) uint8 with 1 or 3 channels.

    Returns:
      (B, channels, height, width) float32, 0 to 255.
    """
    if form.channels == 1:
        images = _gray(graph, images)
    else:
        images = graph("Expand", images, np.array([1, 1, 1, 3]))
    images = graph("Transpose", images, perm=[0, 3, 1, 2])
    # All four sizes, as onnxruntime 1.32 cannot optimize the attribute `axes` after a Transpose.
    start = graph("Shape", images, end=2)
    width = _target_width(graph, form, images)
    size = graph("Concat", start, np.array([form.height]), width, axis=0)
    images = graph(
        "Resize",
        images,
        "",
        "",
        size,
        antialias=1,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    images = graph.cast(images, np.float32)
    return graph("Sub", np.float32(255), images) if form.invert else images


def prepared(graph: Graph, images: str) -> str:
    """Adds the conversion of resized images (B, height, W, channels) uint8.

    Returns:
      (B, channels, height, W) float32, 0 to 255.
    """
    return graph.cast(graph("Transpose", images, perm=[0, 3, 1, 2]), np.float32)


def _gray(graph: Graph, images: str) -> str:
    """Pillow's gray, (19595 R + 38470 G + 7471 B + 32768) >> 16; float32 has all these integers."""
    images = graph.cast(graph("Expand", images, np.array([1, 1, 1, 3])), np.float32)
    sums = graph("Add", graph("MatMul", images, GRAY), np.float32(32768))
    return graph.cast(graph("Floor", graph("Mul", sums, np.float32(2**-16))), np.uint8)


def _target_width(graph: Graph, form: ImageForm, images: str) -> str:
    """The width, int64 of shape (1,), of images (B, C, H, W); see `data.images.target_width`."""
    if form.width:
        return graph.constant(np.array([form.width]))
    # As in Python the quotient is in double precision, and halves are rounded to the even number.
    height, width = (graph.cast(graph.size(images, axis), np.float64) for axis in (2, 3))
    width = graph("Round", graph("Div", graph("Mul", width, np.float64(form.height)), height))
    least, most = np.float64(form.min_width), np.float64(form.max_width)
    return graph.cast(graph("Min", graph("Max", width, least), most), np.int64)
